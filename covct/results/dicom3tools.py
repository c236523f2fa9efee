"""Other judges of DICOM objects: dciodvfy and dcentvfy of dicom3tools, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom

from covct.results.check_file import SEGMENTATIONS
from covct.results.defects import Defect

TOO_LONG = re.compile(r"= <(.*)> - Length invalid for this VR = <[0-9]+> - expected <= ([0-9]+)")
LONGEST_JUDGEMENT_S = 300
# False where a Label Map Segmentation is meant: its storage class is missing in dciodvfy's rule, and
# segments of it are referenced as those of any other SEG (PS3.3 C.17.3.5).
OTHER_THAN_SEGMENTATION = "Shall not be present for Referenced SOP Class that is not segmentation"


@dataclass(frozen=True)
class Judges:
    """Who judges beside covct: the paths of dicom3tools' validators."""

    dciodvfy: str | None = None
    dcentvfy: str | None = None


def installed_judges(with_dicom3tools: bool = True) -> Judges:
    """What of dciodvfy and dcentvfy is installed, on the path or beside the interpreter."""

    def tool(name: str) -> str | None:
        beside = Path(sys.executable).with_name(name)
        return shutil.which(name) or (str(beside) if beside.is_file() else None)

    return Judges(tool("dciodvfy"), tool("dcentvfy")) if with_dicom3tools else Judges()


def ask(judges: Judges, paths: list[Path]) -> Iterator[Defect]:
    """Errors of dicom3tools. That sources are not among the files is none: references are followed by ourselves."""
    if judges.dciodvfy:
        for path in paths:
            for message in errors_of([judges.dciodvfy, "-new", str(path)], " = "):
                if not (message.endswith(OTHER_THAN_SEGMENTATION) and _names_segments_of_segs(path)):
                    yield Defect("dciodvfy", message, path.name)
    if judges.dcentvfy and len(paths) > 1:
        for message in errors_of([judges.dcentvfy, *map(str, paths)], " - "):
            if message != "Missing SOPInstanceUID that was referenced":
                yield Defect("dcentvfy", message)


def _names_segments_of_segs(path: Path) -> bool:
    """Whether every reference to a segment is one to an object that has segments."""
    with path.open("rb") as file:
        dataset = pydicom.dcmread(file, stop_before_pixels=True)
    references = (item for item in _items(dataset) if "ReferencedSegmentNumber" in item)
    return all(item.get("ReferencedSOPClassUID") in SEGMENTATIONS for item in references)


def _items(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _is_error(line: str) -> bool:
    """UIDs with leading zeros are the source's, as it is filed in archives; those that covct makes have none.

    The length of a value is that of its characters (PS3.5 6.2), and dciodvfy counts bytes of UTF-8.
    """
    long = TOO_LONG.search(line)
    return (
        line.startswith("Error")
        and "Leading zeroes in embedded numeric component" not in line
        and not (long and len(long[1]) <= int(long[2]))
    )


def errors_of(command: list[str], values: str) -> list[str]:
    """Each error once, up to where it begins to quote values, which may be the patient's."""
    try:
        run = subprocess.run(command, capture_output=True, timeout=LONGEST_JUDGEMENT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"it gave no answer ({type(error).__name__})"]
    lines = (run.stdout + run.stderr).decode("utf-8", "replace").splitlines()
    errors = [line.removeprefix("Error - ").split(values)[0] for line in lines if _is_error(line)]
    if run.returncode < 0:
        errors.append(f"it was ended by signal {-run.returncode}")
    return list(dict.fromkeys(errors))
