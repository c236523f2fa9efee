"""The truth of a case: as it lies on disk for masks of other tools, or on the grid that our networks are judged on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np

from covct.data.cases import IN_PLACE_OF, TASKS, Case, Labelled
from covct.data.domains import HU, WINDOW, as_grey, hu_of_window
from covct.data.labels import PLAIN
from covct.data.model_space import Restore, slices_of, to_hounsfield
from covct.data.read_case import read_case, with_domain
from covct.data.slices import UNKNOWN
from covct.dicom.seg_masks import LabelNames
from covct.voxels.overlay import LUNG_WINDOW_HU
from covct.voxels.volume import Scan


@dataclass(frozen=True)
class Truth:
    """A case in memory; everything (slices, rows, columns), head to feet where known, anterior up.

    Attributes
    ----------
    hu : number
        Where `measured` is false a grey value as its place in the lung window, to look at only.
    masks : dict of str to bool array
        By task; a task without truth has none.
    spacing_mm : (float, float, float) or None
        Between slices, rows and columns; None where nobody knows.
    scan : Scan or None
        Of a whole series, or a volume.
    known : bool array or None
        Pixels whose truth somebody vouches for; None: all.
    numbers : (slices,) int or None
        Of the slices in their volume, of pictures; None: they follow one another.
    """

    hu: np.ndarray
    masks: dict[str, np.ndarray]
    spacing_mm: tuple[float, float, float] | None = None
    scan: Scan | None = None
    measured: bool = True
    known: np.ndarray | None = None
    numbers: np.ndarray | None = None

    @property
    def grid(self) -> hd.Volume | None:
        """The grid that masks of the case must lie on, working orientation."""
        return self.scan.working if self.scan else None


def is_whole(case: Case) -> bool:
    """Whether the line of `covct scan` can run on it: a series or a volume in HU; `case` with its domain."""
    return case.domain == HU and not case.of_pictures


def named(cases: Iterable[Case], source: str, with_domains: bool) -> list[Case]:
    """The cases under another name of their source, if any is given, and with their domains, if these are asked for."""
    renamed = [replace(case, known_as=source) if source else case for case in cases]
    return [with_domain(case) for case in renamed] if with_domains else renamed


def read_truth(case: Case, labels: LabelNames = PLAIN) -> Truth:
    """The truth on the pixels of its own image, whatever that is in. Raises CaseError, as `read_case`."""
    return _own(read_case(case, labels, any_domain=True))


def _own(labelled: Labelled) -> Truth:
    masks = {task: mask > 0 for task in TASKS if (mask := getattr(labelled, task)) is not None}
    in_window = labelled.domain == WINDOW and (labelled.scan is not None or labelled.case.window_hu is not None)
    measured = labelled.domain == HU or in_window
    hu = to_hounsfield(labelled) if measured else hu_of_window(as_grey(labelled.pixels), LUNG_WINDOW_HU)
    known = None if labelled.unknown is None else ~labelled.unknown
    return Truth(hu, masks, labelled.spacing_mm, labelled.scan, measured, known)


def truth_for_networks(case: Case, labels: LabelNames = PLAIN, restore: Restore | None = None) -> Truth:
    """The truth where our networks are judged: of what `is_whole` its own grid, of anything else model space.

    Parameters
    ----------
    case : Case
        With its domain.
    restore : function, optional
        8-bit CLAHE slices need it.
    """
    labelled = read_case(case, labels)
    if is_whole(case):
        return _own(labelled)
    part = slices_of(labelled, restore)
    masks = {task: getattr(part, task) == 1 for task in TASKS if getattr(labelled, task) is not None}
    spacing = None if part.spacing_mm is None else part.spacing_mm[0]
    known = None if labelled.unknown is None else part.lungs != UNKNOWN
    spacing_mm = None if spacing is None else (spacing[0], spacing[1], spacing[2])
    return Truth(part.hu, masks, spacing_mm, known=known, numbers=None if part.places is None else part.places[:, 1])


def each_once(cases: Sequence[Case]) -> list[Case]:
    """The cases without slices on 8 bit that are there in HU too, and those cropped that are there in full field."""
    there = {(IN_PLACE_OF[case.layout], case.name, case.patient) for case in cases if case.layout in IN_PLACE_OF}
    return [case for case in cases if (case.layout, case.name, case.patient) not in there]
