"""A DICOM SEG against the slices that it was drawn on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO

import numpy as np
import pydicom

from covct.dicom.header import Instance
from covct.dicom.inherited import TYPE_2
from covct.dicom.patient import PATIENT_TAGS, Kin, patient_of
from covct.dicom.valid import is_uid
from covct.disk.sources import read_all
from covct.errors import SeriesError
from covct.intake.grid import SPACING_DIFFERS, cosine_unit, half_unit
from covct.results.check_file import quietly
from covct.results.check_seg import SPACING_TOLERANCE_MM, Frame, frame_of, instances_of
from covct.results.defects import Defect

PATIENT_AND_STUDY = (*(keyword for keyword in TYPE_2 if keyword != "PositionReferenceIndicator"), "StudyInstanceUID")
POSITION_TOLERANCE_MM = 0.01  # decimal strings hold 16 characters
COSINE_TOLERANCE = 2e-3  # the gate lets cosines of a series differ by 1e-3, and all take the first slice's

Sources = Mapping[tuple[str, int | None], Instance]


def check_source(dataset: pydicom.Dataset, sources: Sources) -> Iterator[Defect]:
    wanted = {str(i.ReferencedSOPInstanceUID) for s in dataset.ReferencedSeriesSequence for i in instances_of(s)}
    if missing := sorted(wanted - {uid for uid, _ in sources}):
        yield Defect("source-missing", f"{len(missing)} of {len(wanted)} instances are missing, first {missing[0]}")
    referred = {uid: source for (uid, _), source in sources.items() if uid in wanted}
    yield from _check_patient(dataset, [referred[uid] for uid in sorted(referred)])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    differing: dict[str, list[str]] = {}
    for frame in map(frame_of, dataset.PerFrameFunctionalGroupsSequence):
        for uid, number in frame.references:
            if there := sources.get((uid, number)):
                for what, message in _differences(dataset, shared, frame, there):
                    differing.setdefault(what, []).append(f"{message} in source {uid}")
            elif uid not in missing:
                differing.setdefault("frame", []).append(f"there is no frame {number} in source {uid}")
    for messages in differing.values():
        yield Defect("source-differs", f"{messages[0]}" + (f", and in {len(messages) - 1} more" * (len(messages) > 1)))


def _differences(
    dataset: pydicom.Dataset, shared: pydicom.Dataset, frame: Frame, source: Instance
) -> Iterator[tuple[str, str]]:
    """What of a frame's place in the patient is not that of the source slice it names."""
    spacing, cosines = shared.PixelMeasuresSequence[0].PixelSpacing, shared.PlaneOrientationSequence[0]
    turned, longer = _rounded_by(source)
    for what, got, wanted, tolerance in (
        ("position", frame.position, source.position, POSITION_TOLERANCE_MM),
        ("orientation", cosines.ImageOrientationPatient, source.orientation, max(COSINE_TOLERANCE, turned)),
        ("pixel spacing", spacing, source.pixel_spacing, max(SPACING_TOLERANCE_MM, longer)),
        ("rows and columns", (dataset.Rows, dataset.Columns), source.shape, 0),
    ):
        got = [float(value) for value in got]
        if wanted is None or np.abs(np.subtract(got, wanted)).max() > tolerance:
            yield what, f"{what} is {_list(got)}, but {_list(wanted)}"
    if is_uid(source.frame_of_reference_uid) and source.frame_of_reference_uid != dataset.FrameOfReferenceUID:
        yield "frame", f"frame of reference is {dataset.FrameOfReferenceUID}, but {source.frame_of_reference_uid}"


def _rounded_by(source: Instance) -> tuple[float, float]:
    """How far rounding may have brought a slice's cosines, and its pixel spacing in mm, from those of the others."""
    if source.orientation is None or source.pixel_spacing is None:
        return 0.0, 0.0
    turned = cosine_unit(np.array([source.orientation])) * (1 + 1e-6)
    return turned, max(min(half_unit(value), SPACING_DIFFERS * value) for value in source.pixel_spacing) + 1e-9


def _check_patient(dataset: pydicom.Dataset, sources: list[Instance]) -> Iterator[Defect]:
    """Patient and study are the source's: whoever is one person to the gate is one here, in whatever spelling.

    Empty on either side says nothing: what breaks its type is left out of a SEG.
    """
    who = patient_of(dataset.get)
    strangers = [source for source in sources if who.kin(source.patient) in (Kin.DIFFERENT, Kin.APART)]
    differing = _in_none(who.differing(source.patient) for source in strangers or sources)
    try:
        differing += _in_none(_study_differing(dataset, source) for source in sources)
    except SeriesError as error:
        yield Defect("source-missing", error.message)
    if differing:
        yield Defect("patient-differs", f"{', '.join(differing)} not as in the source")


def _in_none(looks: Iterable[list[str]]) -> list[str]:
    """Keywords that differ from every slice; no more are looked at than needed."""
    differing: list[str] | None = None
    for look in looks:
        differing = [keyword for keyword in (look if differing is None else differing) if keyword in look]
        if not differing:
            break
    return differing or []


def _study_differing(dataset: pydicom.Dataset, source: Instance) -> list[str]:
    [(_, contents)] = read_all([source.file])
    keywords = [keyword for keyword in PATIENT_AND_STUDY if keyword not in PATIENT_TAGS]
    options = {"stop_before_pixels": True, "force": True, "specific_tags": ["SpecificCharacterSet", *keywords]}
    header = quietly(pydicom.dcmread, BytesIO(contents), **options)
    return [k for k in keywords if text_of(header, k) and text_of(dataset, k) not in ("", text_of(header, k))]


def _list(values: Iterable[float] | None) -> str:
    return "none" if values is None else "\\".join(f"{value:g}" for value in values)


def text_of(dataset: pydicom.Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()
