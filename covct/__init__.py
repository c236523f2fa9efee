"""covct: overnight batch segmentation of chest CT. Research software, not a medical device."""

from covct.version import full_version

__version__ = full_version()

RESEARCH_USE = "Research use only. Not a medical device."
