"""covct: overnight batch segmentation of chest CT. Research software, not a medical device."""

__version__ = "0.1.0"

RESEARCH_USE = "Research use only. Not a medical device."
