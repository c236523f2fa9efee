"""Whether the files of a finished series still hold the slices that its result was made of.

A sender may replace a file under its old SOP Instance UID, which DICOM forbids: no UID tells of it. Sizes and times do,
which reads nothing; where they are others, the series is read, and its slices are compared. What is compared is what
two files of one UID must agree in as well: pixels and place. So a copy in another encoding, or with another name of the
patient, is the same.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from covct.disk.outcome import Outcome
from covct.disk.sources import Opener
from covct.intake.discover import Series
from covct.intake.grid import grid_of

if TYPE_CHECKING:  # highdicom is for those who read slices
    from covct.voxels.volume import Scan

SIGNATURES_KEPT = 4  # a study may lie in several places, which are scanned in turn
# What changed so short a time ago may change again under the same modification time. Some file systems and servers
# count whole seconds, FAT two of them; the kernel's clock ticks at 100 Hz or more.
WHOLE_SECOND_NS, COARSE_NS, FINE_NS = 10**9, 2 * 10**9, 20 * 10**6


def signature(series: Series, opener: Opener | None = None) -> str:
    """What changes when a file of a DICOM series is replaced; nothing is read but the directories of archives.

    Empty where nothing can be relied on: a file cannot be asked, or changed just now. Paths are not part of it.

    Parameters
    ----------
    opener : Opener, optional
        Whose archive stays open for the next series.
    """
    now, stamps = time.time_ns(), []
    if series.kind != "dicom":
        return ""  # a volume file is known by its contents
    with nullcontext(opener) if opener else Opener() as opened:
        for file in sorted({*(instance.file for instance in series.instances), *series.twins}):
            try:
                stamp = opened.stamp(file)
            except Exception:  # a damaged archive raises what the damage hits; reading it will tell
                return ""
            if not file.member and abs(now - stamp[1]) < (FINE_NS if stamp[1] % WHOLE_SECOND_NS else COARSE_NS):
                return ""
            stamps.append((bool(file.member), *stamp))
    return hashlib.sha256(repr(sorted(stamps)).encode()).hexdigest()


def slices_digest(series: Series, scan: Scan) -> str:
    """sha256 of Hounsfield units and place of each slice, whatever file it lies in; empty for a volume file."""
    if series.kind != "dicom":
        return ""
    found = hashlib.sha256()
    for one, plane in zip(grid_of(series).ordered, scan.volume.array, strict=True):
        place = one.sop_instance_uid, one.frame, one.position, one.orientation, one.pixel_spacing
        found.update(f"{place} {plane.dtype.str} {plane.shape}".encode())
        found.update(np.ascontiguousarray(plane).data)
    return found.hexdigest()


def may_be_replaced(outcome: Outcome, now: str) -> bool:
    """Whether files of a finished series may have been replaced, by their signature now.

    A result without slices is of a volume file, or of a version that noted none: it stands. What was rejected or failed
    is worth another attempt only if its files are surely others.
    """
    noted = outcome.slices if outcome.status == "done" else outcome.signatures and now
    return bool(noted) and now not in outcome.signatures


def still_of(outcome: Outcome, now: str) -> Outcome:
    """The outcome, once files of this signature were found to hold its slices."""
    known = [now, *(one for one in outcome.signatures if one != now)] if now else outcome.signatures
    return outcome.model_copy(update={"signatures": known[:SIGNATURES_KEPT]})
