"""Labelled data, read once for training, evaluation, explore and restore."""
