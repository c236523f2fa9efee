"""Evaluation: masks against the truth, by patient, with intervals; of our networks and of other tools alike."""
