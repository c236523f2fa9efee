"""The input gate: what of a series can be trusted. Two tolerances: refused beyond one, warned of beyond the other.

Every finding has a slug of `GATE`, whose numbers and their reasons docs/gate.md lists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from covct.dicom.header import CT_IMAGE, MULTI_FRAME_CT, Instance
from covct.dicom.patient import PATIENT_TAGS, Kin, merged
from covct.dicom.quotable import IMAGE_TYPES, MODALITIES, RESCALE_TYPES, quoted, quoted_all, quoted_uid
from covct.dicom.valid import is_uid
from covct.errors import SeriesError
from covct.intake.discover import Series
from covct.intake.foreign import SECONDARY_CAPTURE, described
from covct.intake.gate_geometry import extents, in_space, on_one_grid, uid_per_slice
from covct.intake.gate_rules import (
    AIR_BELOW_HU,
    CUT_WARNED,
    EDGE_CUT,
    FEW_SLICES,
    HOUNSFIELD_TYPES,
    IMPLAUSIBLE,
    LEAST_AIR_SHARE,
    LEAST_TISSUE_SHARE,
    LOSSY_RATIO_REFUSED,
    NEAR_WATER_HU,
    NOTED,
    PADDING_HU,
    REFUSED,
    SURELY_HU,
    WARNED,
    Finding,
    ValidFor,
    least_lung,
    refusal,
)
from covct.intake.image_type import DERIVED, LOCALIZER, REFORMATTED, is_cut, kind_of
from covct.intake.volume_header import FORMAT_NAMES
from covct.voxels.labels import Slices, per_slice


def check_headers(series: Series, strict: bool = False, any_size: bool = False, mended: tuple[str, ...] = ()) -> None:
    """Refuse what cannot be segmented, from headers alone.

    Parameters
    ----------
    strict : bool
        Warnings refuse too.
    any_size : bool
        Of an image that no chest is scanned in is only warned.
    mended : tuple of str
        Slugs of warnings that do not, as what is done next puts them right.

    Raises
    ------
    SeriesError
        With one of the slugs of `GATE`, naming what was got and what was wanted.
    """
    for finding in inspect_headers(series, any_size):
        if finding.level == REFUSED or (strict and finding.level == WARNED and finding.slug not in mended):
            raise SeriesError(finding.slug, finding.message)


def header_warnings(series: Series, any_size: bool = False) -> tuple[ValidFor, list[Finding]]:
    """Findings of the headers that do not stop the series, and what they leave valid."""
    found = [finding for finding in inspect_headers(series, any_size) if finding.level != REFUSED]
    return left_valid(found), found


def left_valid(findings: list[Finding]) -> ValidFor:
    """The figures that still hold once this was found."""
    slugs = {finding.slug for finding in findings}
    measured = not IMPLAUSIBLE & slugs
    return ValidFor(volume=measured, percent=measured, hu_bands=not {"no-rescale", "lossy"} & slugs)


def refuse_warnings(findings: list[Finding]) -> None:
    """The strict gate: the first warning refuses the series."""
    for finding in findings:
        if finding.level == WARNED:
            raise SeriesError(finding.slug, finding.message)


def inspect_headers(series: Series, any_size: bool = False) -> list[Finding]:
    """The verdict on a series by its headers: what refuses it, or all that is to be told of it."""
    if series.kind != "dicom":
        message = (
            f"{FORMAT_NAMES[series.kind]} has no DICOM instances to refer to: masks and "
            "report are written, but no DICOM SEG"
        )
        return [*_twins(series), Finding("no-seg", message, NOTED)]
    found: list[Finding] = []
    for look in (_identity, _kind, on_one_grid, in_space, extents, _contents):
        found += look(series)
        if any_size:
            found = [replace(one, level=WARNED) if one.slug == "implausible-size" else one for one in found]
        if refused := [finding for finding in found if finding.level == REFUSED]:
            return refused
    return found


def check_people(series: Series) -> None:
    """Refuse slices of several people: for whoever reads a series without the whole gate.

    Raises
    ------
    SeriesError
        `mixed-patients`, `uid-per-slice`.
    """
    for finding in _people(series):
        raise SeriesError(finding.slug, finding.message)


def _people(series: Series) -> Iterator[Finding]:
    if series.uid_per_slice:
        each = " and ".join(f"a {keyword}" for keyword in series.uid_per_slice)
        yield uid_per_slice(series, each)
    if series.mixed:
        what = f"{', '.join(series.mixed)} differ{'s' * (len(series.mixed) == 1)} between slices"
        yield refusal("mixed-patients", f"{what} of one series, so the patient is unknown; wanted one patient")


def _identity(series: Series) -> Iterator[Finding]:
    yield from _people(series)
    if not series.study_uid or not series.series_uid:
        yield refusal(
            "no-identifiers",
            f"{len(series.instances)} slices without StudyInstanceUID or SeriesInstanceUID; "
            "wanted both, to attach the result to its series",
        )
    elif not series.can_be_referred_to:
        uids = {"StudyInstanceUID": [series.study_uid], "SeriesInstanceUID": [series.series_uid]}
        uids["SOPInstanceUID"] = [i.sop_instance_uid for i in series.instances]
        wrong = [keyword for keyword, values in uids.items() if not all(map(is_uid, values))]
        yield Finding(
            "missing-uids",
            f"{' and '.join(wrong)} missing or not a valid UID: NIfTI masks and report "
            "are written, but no DICOM objects, which could not refer to the slices; "
            "`covct convert --to dicom` assigns UIDs",
        )


def _kind(series: Series) -> Iterator[Finding]:
    for instance in series.instances:
        kind = kind_of(instance)
        if instance.modality != "CT":
            yield refusal("not-ct", f"modality is {quoted(instance.modality, MODALITIES)}, wanted CT")
        if instance.sop_class_uid.startswith(SECONDARY_CAPTURE):
            yield refusal("derived", "a secondary capture, wanted original slices")
        elif instance.sop_class_uid not in {CT_IMAGE, *MULTI_FRAME_CT}:
            yield refusal("not-ct", f"SOP class is {quoted_uid(instance.sop_class_uid)}, wanted CT Image Storage")
        if instance.concatenated:
            yield refusal("concatenation", "one part of a concatenation; wanted the whole multi-frame image")
        if kind == LOCALIZER:
            yield refusal("localizer", "a localizer (scout) image, not an axial series")
        if kind == DERIVED:
            yield refusal("derived", f"image type is {_image_type(instance)}, wanted original slices")
        if instance.rescale_type.upper() not in HOUNSFIELD_TYPES:
            yield refusal("not-hounsfield", f"RescaleType is {quoted(instance.rescale_type, RESCALE_TYPES)}, wanted HU")

    yield from _reformatted(series)


def _reformatted(series: Series) -> Iterator[Finding]:
    """Averages of axial slices: a chest CT that a department reads every day, where it is sure that they are HU."""
    reformats = [instance for instance in series.instances if kind_of(instance) == REFORMATTED]
    cut = [instance for instance in reformats if is_cut(instance)]
    for instance in cut:
        if instance.rescale is None or instance.rescale_type.upper() not in SURELY_HU:
            message = f"image type is {_image_type(instance)}, without a rescale to HU; wanted averages in HU"
            yield refusal("reformatted", message)
    if 0 < len(cut) < len(series.instances):
        message = f"{len(cut)} reformatted and {len(series.instances) - len(cut)} other slices; wanted one kind"
        yield refusal("reformatted", message)
    if reformats:
        message = (
            f"image type is {_image_type(reformats[0])}: averaged slices, in which small or faint lesions may be lost"
        )
        yield Finding("reformatted", message)


def _image_type(instance: Instance) -> str:
    return quoted_all(instance.image_type, IMAGE_TYPES)


def _contents(series: Series) -> Iterator[Finding]:
    """What the headers say of the pixels, of what lies beside them and of what is not there."""
    if series.aside:
        message = f"set aside under the same Series Instance UID, as not slices of it: {described(series.aside)}"
        yield Finding("foreign-objects", message, NOTED)
    yield from _twins(series)
    doubtful = {told for i in series.instances for told in i.doubtful_commas if told.startswith("Rescale")}
    if doubtful:
        yield refusal("decimal-comma", f"the comma in {min(doubtful)} may separate thousands; wanted a decimal point")
    if commas := sorted({keyword for i in series.instances for keyword in i.commas}):
        yield Finding(
            "decimal-comma", f"{', '.join(commas)} written with a decimal comma; read as a decimal point", NOTED
        )
    if any(i.rescale is None for i in series.instances):
        message = (
            "RescaleSlope or RescaleIntercept is missing; 1 and 0 were assumed, and figures based on HU are withheld"
        )
        yield Finding("no-rescale", message)
    if series.unreadable_beside:
        message = (
            f"{series.unreadable_beside} files beside the series cannot be read; slices may be missing at either end"
        )
        yield Finding("unreadable-beside", message)
    if any(i.lossy for i in series.instances):
        ratio = max(i.lossy_ratio for i in series.instances)
        said = f" {ratio:g}:1" if ratio else ""
        level = REFUSED if ratio > LOSSY_RATIO_REFUSED else WARNED
        yield Finding("lossy", f"lossy compression{said}; figures based on HU are withheld", level)
    yield from _namings(series)
    yield from _fewer_than_acquired(series)


def _twins(series: Series) -> Iterator[Finding]:
    if count := len(series.twins):
        what = "an instance" if series.kind == "dicom" else "the contents of one"
        message = f"{count} file{'s repeat' if count > 1 else ' repeats'} {what} already there; each is used once"
        if series.copies:
            message += f" ({series.copies} with another patient name, or none, are set aside)"
        yield Finding("duplicate-files", message, NOTED)


def _namings(series: Series) -> Iterator[Finding]:
    """Slices that name one person differently, or not at all: no reason to refuse, but worth a look."""
    namings = Counter(i.patient for i in series.instances)
    if len(namings) < 2:
        return
    person = merged(namings)
    unlike = {keyword for naming in namings for keyword in naming.differing(person)}
    said = ", ".join(keyword for keyword in PATIENT_TAGS if keyword in unlike)
    silent = sum(count for naming, count in namings.items() if naming.kin(person) is not Kin.SAME)
    if said:
        yield Finding("mixed-patients", f"{said} not the same in all slices; everything else indicates one person")
    elif silent:
        yield Finding("mixed-patients", f"{silent} of {len(series.instances)} slices do not identify a patient")


def _fewer_than_acquired(series: Series) -> Iterator[Finding]:
    """Images in Acquisition counts all reconstructions: twice as many and more are another kernel's."""
    counts = Counter((i.acquisition, i.images_in_acquisition) for i in series.instances if not i.frame)
    for (_, declared), count in sorted(counts.items(), key=lambda item: item[0][1]):
        if count < declared < 2 * count:
            yield Finding("missing-slices", f"the header declares {declared} acquired images, but {count} are present")


def check_hounsfield(hu: np.ndarray) -> None:
    """Refuse voxels that are not Hounsfield units. hu (slices, rows, columns).

    Raises
    ------
    SeriesError
        `not-hounsfield`: 0..255 or 0..4095 grey values, or nothing as dark as air.
    """
    sample = hu[:: max(1, len(hu) // 30), ::4, ::4]
    sample = sample[sample > PADDING_HU]  # padding is brought to air when slices are read, whatever the rest is
    if not sample.size:
        return
    low, high = float(sample.min()), float(sample.max())
    wanted = "wanted Hounsfield units (air -1000, water 0)"
    if low >= 0 and high <= 10:
        raise SeriesError("not-hounsfield", f"values range from {low:g} to {high:g}, as in a mask; {wanted}")
    if low >= 0 and high <= 255:
        raise SeriesError("not-hounsfield", f"values range from {low:g} to {high:g}, an 8-bit grey scale; {wanted}")
    if low >= -10:
        raise SeriesError("not-hounsfield", f"values range from {low:g} to {high:g} without air; {wanted}")
    if np.mean(sample < AIR_BELOW_HU) < LEAST_AIR_SHARE:
        raise SeriesError("not-hounsfield", f"values range from {low:g} to {high:g} with almost no air; {wanted}")
    dense = sample[sample > AIR_BELOW_HU]
    tissue = float(np.mean(np.abs(dense) < NEAR_WATER_HU)) if dense.size else 1.0
    if tissue < LEAST_TISSUE_SHARE:
        raise SeriesError("not-hounsfield", f"only {100 * tissue:.0f} % of what is not air is soft tissue; {wanted}")


def check_region(
    hu: np.ndarray, spacing_mm: tuple[float, float, float], other_part: bool, age: float | None = None
) -> None:
    """Refuse a head or an abdomen before the networks are loaded: the header says so, and it holds next to no air.

    Parameters
    ----------
    hu : (slices, rows, columns) number
        Working orientation.
    other_part : bool
        The header names another part of the body. A chest under a wrong name holds lungs, and goes on.
    age : float, optional
        In years.

    Raises
    ------
    SeriesError
        `head-or-abdomen`.
    """
    if not other_part:
        return
    step = max(1, len(hu) // 60)
    enclosed = sum(_enclosed_air(one[::4, ::4]) for one in hu[::step])
    volume_ml = 16 * step * enclosed * float(np.prod(spacing_mm)) / 1000
    if volume_ml < least_lung(age)[0]:
        raise SeriesError(
            "head-or-abdomen",
            f"labelled as another part of the body, with {volume_ml:.0f} mL of air inside; wanted a chest CT",
        )


def age_years(value: str | None) -> float | None:
    """PatientAge (0010,1010) in years; None where it is missing, not valid as ``45``, or 0 as anonymisers write."""
    match = re.fullmatch(r"(\d{3})([DWMY])", str(value or "").strip())
    years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]] if match else 0.0
    return years or None


def _enclosed_air(hu_slice: np.ndarray) -> int:
    """Pixels of air that are not connected with the border of the slice."""
    import cv2  # for those who have work

    air = (hu_slice < AIR_BELOW_HU).astype(np.uint8)
    _, labels = cv2.connectedComponents(air)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return int(np.count_nonzero((air > 0) & ~np.isin(labels, outside[outside > 0])))


def _little_lung(volume_ml: float, extent_mm: float, slices: int, least_ml: float, least_cm2: float) -> str:
    """Of few slices by their area: their volume says only how thick they are."""
    if slices < FEW_SLICES:
        found = f"{10 * volume_ml / extent_mm:.1f} cm² of lung found" if volume_ml else "no lung found"
        of = (
            "in the one slice" if slices == 1 else f"a slice in {slices} slices" if volume_ml else f"in {slices} slices"
        )
        return f"{'only ' * bool(volume_ml)}{found} {of}; wanted a chest CT (at least {least_cm2:g} cm² a slice)"
    found = f"only {volume_ml:.0f} mL of lung found" if volume_ml else "no lung found"
    return f"{found} in {slices} slices over {extent_mm:.0f} mm; wanted a chest CT (at least {least_ml:g} mL)"


def coverage(
    lungs: Slices,
    spacing_mm: tuple[float, float, float],
    other_part: bool = False,
    age_years: float | None = None,
) -> tuple[ValidFor, list[Finding]]:
    """Whether the series holds whole lungs.

    Parameters
    ----------
    lungs : (slices, rows, columns) uint8
        Lung labels, head to feet; 0 is background.
    spacing_mm : (float, float, float)
        Of slices, rows and columns.
    other_part : bool
        The header names another part of the body.
    age_years : float, optional
        A young child's lungs are smaller.

    Raises
    ------
    SeriesError
        `no-lungs` or `head-or-abdomen`: not a chest.
    """
    areas = per_slice(lungs)
    slices, extent_mm = len(lungs), len(lungs) * spacing_mm[0]
    volume_ml = int(areas.sum()) * float(np.prod(spacing_mm)) / 1000
    least_ml, least_cm2 = least_lung(age_years)
    if volume_ml < least_ml and volume_ml / (extent_mm / 10) < least_cm2:
        raise SeriesError(
            "head-or-abdomen" if other_part else "no-lungs",
            _little_lung(volume_ml, extent_mm, slices, least_ml, least_cm2),
        )
    if slices < FEW_SLICES:
        message = f"{slices} slice{'s' * (slices > 1)}: the figures describe what is shown, not the whole lungs"
        return ValidFor(volume=False, percent=False), [Finding("too-few-slices", message)]
    found, whole = [], True
    ends = {name: areas[at] / areas.max() for name, at in (("first", 0), ("last", -1)) if areas[at]}
    if ends:
        message = f"the lungs reach the {' and the '.join(ends)} slice: part of them was not scanned"
        whole = bool(max(ends.values()) < CUT_WARNED)
        found.append(Finding("partial-lungs", message))
    at_edge = np.count_nonzero([one[0].any() or one[-1].any() or one[:, (0, -1)].any() for one in lungs])
    if at_edge:
        message = f"the lungs reach the edge of the image in {at_edge} slices: part of them lies outside"
        whole = whole and bool(at_edge < EDGE_CUT * np.count_nonzero(areas))
        found.append(Finding("partial-lungs", message))
    return ValidFor(volume=whole, percent=whole), found
