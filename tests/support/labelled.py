"""Labelled cases, as the commands find them."""

from pathlib import Path

from covct.data.cases import Case
from covct.data.labels import PLAIN
from covct.data.layouts import at_least_one, search_cases
from covct.dicom.seg_masks import LabelNames


def find_cases(data: Path, labels: LabelNames = PLAIN) -> list[Case]:
    """The labelled cases below a folder, in any of the layouts above.

    Raises
    ------
    UsageError
        The folder is not there, or holds no case; what was found instead.
    """
    return list(at_least_one(search_cases(data, labels), data).cases)
