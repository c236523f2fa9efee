"""The input gate: what of a series can be trusted. Two tolerances: refused beyond one, warned of beyond the other.

Every finding has a slug of `GATE`, whose numbers and their reasons README shows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from covct.dicom.header import CT_IMAGE, MULTI_FRAME_CT, Instance
from covct.dicom.patient import PATIENT_TAGS, Kin, merged
from covct.dicom.valid import is_uid
from covct.discover import Series
from covct.errors import SeriesError
from covct.foreign import SECONDARY_CAPTURE, described
from covct.grid import (
    COSINE_TOLERANCE,
    SHIFT_WARNED_MM,
    UNEVEN_WARNED,
    Grid,
    cosine_unit,
    grid_of,
    orientation_of,
    rounded_gaps,
    sideways_mm,
    spacing_of,
    unevenness,
)
from covct.image_type import DERIVED, LOCALIZER, REFORMATTED, is_cut, kind_of
from covct.labels import Slices, per_slice
from covct.quote import IMAGE_TYPES, MODALITIES, RESCALE_TYPES, quoted, quoted_all, quoted_uid
from covct.rounding import units_of
from covct.scattered import FEWEST
from covct.split import MOSTLY, differing
from covct.volume_header import FORMAT_NAMES

TILT_REFUSED_DEGREES, TILT_WARNED_DEGREES = 30.5, 0.1
OBLIQUE_REFUSED_DEGREES, OBLIQUE_WARNED_DEGREES = 35.0, 20.5
GAP_FACTOR = 1.5
UNEVEN_REFUSED = 0.10
SHIFT_REFUSED_MM = 5.0
STEP_REFUSED_MM, STEP_WARNED_MM = 20.0, 5.5
LOSSY_RATIO_REFUSED = 15.0
CUT_WARNED = 0.10
EDGE_CUT = 0.10
FEW_SLICES = 10
LEAST_LUNG_ML = 300.0
WIDE_PERCENT = 20.0
LEAST_LUNG_CM2 = 40.0
PIXEL_MM = (0.1, 10.0)
PIXEL_RATIO = 4.0
IN_PLANE_MM_REFUSED, IN_PLANE_MM_WARNED = (80.0, 1000.0), (120.0, 850.0)
LONG_MM_REFUSED, LONG_MM_WARNED = 2500.0, 2000.0
ADULT_YEARS = 16.0
BODY_MM_REFUSED, BODY_MM_WARNED = (60.0, 750.0), (90.0, 620.0)
BODY_CM2_REFUSED, BODY_CM2_WARNED = (35.0, 3000.0), (60.0, 2000.0)
ADULT_LEAST_CM2 = 250.0
MOST_LUNG_ML = 11_000.0
CHILD_MOST_ML = ((2.0, 1000.0), (6.0, 2500.0), (12.0, 5500.0))  # younger than so many years
CHILD_LEAST_LUNG = ((2.0, 20.0, 4.0), (6.0, 100.0, 15.0))  # younger than so many years: mL, cm2 a slice
LUNGS_REFUSED = 1.4  # times as much as is warned of
ONE_OF_BOTH = 0.65  # what one lung has of both at most, where both are as large as they can be
ADULT_LEAST_LUNGS_ML = 800.0
SHAPE_REFUSED, SHAPE_WARNED = (0.3, 2.5), (0.45, 1.7)
CLEFT, CLEFT_OF_TWO = 0.6, 0.3
SPINE_REFUSED, SPINE_WARNED, SPINE_LEAST_MM = 0.3, 0.4, 100.0
LEAST_LUNG_SHARE = 0.08
GAS_HU, GAS_MOST_ML = -980.0, 1500.0
OTHER_PART_LEAST_ML, OTHER_PART_LEAST_SHARE, OTHER_PART_CUT = 1000.0, 0.15, 0.5
ONE_LUNG = 0.1  # of the other
LEAST_TISSUE_SHARE, TISSUE_HU = 0.3, 250
SURELY_HU = {"", "HU"}  # of what is averaged: of an original slice the scanner's word is enough
HOUNSFIELD_TYPES = {"", "HU", "HU_MOD", "US"}  # US: unspecified, as many archives write
AIR_HU, LEAST_AIR_SHARE = -500, 0.002  # a chest CT holds air; so does nearly every other CT
PADDING_HU = -1024  # what reading makes of padding (AIR_HU of `volume`, which is too heavy to import here)


@dataclass(frozen=True)
class Rule:
    """One line of the gate: what it is about, what is refused, what only warned of, and why these numbers."""

    about: str
    refused: str = ""
    warned: str = ""
    why: str = ""


GATE = {
    "not-ct": Rule("the modality or SOP class is not CT", "always"),
    "localizer": Rule("a localizer (scout)", "always"),
    "derived": Rule("a MIP, a coronal or sagittal reformat, a render or a secondary capture", "always"),
    "reformatted": Rule(
        "axial slices that were averaged or cut from others",
        "beside original slices; not surely in HU",
        "always",
        "averages are HU still, but small and faint lesions fade; done where a study has nothing better",
    ),
    "no-identifiers": Rule("no StudyInstanceUID or SeriesInstanceUID to attach a result to", "always"),
    "mixed-patients": Rule(
        "the slices of a series name different patients",
        "another PatientID of one issuer, or another name; an incomplete copy without a name beside its original",
        "one person in two spellings, or slices that name nobody",
        "whose lungs these are is not known; one PatientID and birth date are one person under whatever name",
    ),
    "missing-uids": Rule(
        "SOP Instance, Series or Study Instance UIDs are missing or no valid UIDs",
        warned="always",
        why="no DICOM object could refer to the slices: report and NIfTI masks instead, until `covct convert "
        "--to dicom` has given them UIDs",
    ),
    "uid-per-slice": Rule(
        "each slice of a scan has a StudyInstanceUID, SeriesInstanceUID or FrameOfReferenceUID of its own",
        f"always; of study and series where at least {FEWEST} slices make an even stack",
        why="a faulty anonymiser's; a result of each slice by itself would be none",
    ),
    "no-geometry": Rule(
        "position, orientation or pixel spacing is missing or impossible",
        f"missing; pixels outside {PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm or {PIXEL_RATIO:g} times longer than wide",
        why="no scanner makes them",
    ),
    "mixed-geometry": Rule(
        "slices differ in size, spacing, orientation or frame of reference, or are shifted sideways",
        f"any; cosines by more than {COSINE_TOLERANCE:g}; shifts above {SHIFT_REFUSED_MM:g} mm",
        f"shifts above {SHIFT_WARNED_MM:g} mm",
        "headers round cosines to 6 digits; a shift of some mm parts what is one in neighbouring slices",
    ),
    "mixed-acquisitions": Rule(
        "several scans in one series that nothing in the headers tells apart",
        f"at least {100 * MOSTLY:.0f} % of the positions doubled",
        why="where acquisition, time, kernel, numbers, cardiac phase or energy tell them apart, each is a candidate",
    ),
    "concatenation": Rule("one part of a multi-frame image that was cut into several", "always"),
    "duplicate-slices": Rule("different slices at one position", "always", why="which of them is right is not known"),
    "conflicting-files": Rule(
        "two files with one SOP Instance UID hold different pixels", "always", why="which of them is right is not known"
    ),
    "missing-slices": Rule(
        "slices are missing; positions in mm are named",
        f"a step of {GAP_FACTOR:g} times the median or more",
        "fewer slices than the header says were acquired",
        "jitter is far smaller; at an end only a count can tell",
    ),
    "too-few-slices": Rule(
        "the series does not hold whole lungs",
        f"fewer than {FEW_SLICES} coronal or sagittal slices",
        f"fewer than {FEW_SLICES}",
        "volume and percent are withheld: they would describe what is shown, not the lungs",
    ),
    "gantry-tilt": Rule(
        "the gantry was tilted",
        f"more than {TILT_REFUSED_DEGREES:g}°",
        f"more than {TILT_WARNED_DEGREES:g}°",
        "gantries tilt by up to 30°; volumes and masks are right on tilted slices; below 0.1° a chest shears by 0.5 mm",
    ),
    "oblique": Rule(
        "the slices are turned against the patient's axes",
        f"more than {OBLIQUE_REFUSED_DEGREES:g}°",
        f"more than {OBLIQUE_WARNED_DEGREES:g}°",
        "the networks were trained on axial slices; beyond 45° left and front could be taken for each other",
    ),
    "not-axial": Rule(
        "acquired in coronal or sagittal slices", warned="always", why="axial slices were put together from them"
    ),
    "uneven-spacing": Rule(
        "slice steps differ",
        f"more than {100 * UNEVEN_REFUSED:.0f} % of the median",
        f"more than {100 * UNEVEN_WARNED:.0f} %",
        "volumes are wrong by about as much",
    ),
    "thick-slices": Rule(
        "slices lie far apart",
        f"more than {STEP_REFUSED_MM:g} mm",
        f"more than {STEP_WARNED_MM:g} mm",
        "lesions between two slices are not seen; 5 mm is common, 10 mm an old HRCT",
    ),
    "not-hounsfield": Rule(
        "grey values (0..255, 0..4095, a mask, colours) and not Hounsfield units",
        f"RescaleType other than HU; values without air (below {AIR_HU} HU); less than "
        f"{100 * LEAST_TISSUE_SHARE:.0f} % of what is denser within {TISSUE_HU} HU of water",
    ),
    "decimal-comma": Rule(
        "numbers are written with a decimal comma",
        "a RescaleSlope or RescaleIntercept where the comma may be one between thousands (-1,024)",
        "note",
        "DICOM has points; what is meant is beyond doubt nearly always",
    ),
    "no-rescale": Rule(
        "RescaleSlope or RescaleIntercept is missing", warned="always", why="1 and 0 are taken, figures by HU withheld"
    ),
    "lossy": Rule(
        "the images were compressed with loss",
        f"a ratio above {LOSSY_RATIO_REFUSED:g}:1",
        "always",
        "guidelines allow chest CT 8:1 to 15:1 for reading; figures by HU are withheld",
    ),
    "not-3d": Rule("a NIfTI, MetaImage or NRRD with more than one volume", "always"),
    "unreadable": Rule("a file is truncated, damaged or cannot be decoded; it is named", "always"),
    "not-read": Rule("files that may hold images, of a kind that is not read; each kind is named once", "always"),
    "nothing-read": Rule("a source holds files, and nothing of it was read", "always", why="exit code 3"),
    "too-large": Rule(
        "more voxels than can be held in memory",
        "more memory than the machine, the container or `--memory-limit` has",
        why="1500 x 768 x 768 need 4 GiB; tried again in every pass, since there may be more by then",
    ),
    "unreadable-beside": Rule("files beside the series cannot be read", warned="always", why="they may be its slices"),
    "partial-lungs": Rule(
        "the lungs reach the first or last slice, or the edge of the image",
        warned="always",
        why=f"beyond {100 * CUT_WARNED:.0f} % of the largest lung area on an end slice, or of the slices at the edge, "
        "volume and percent are withheld",
    ),
    "one-lung": Rule(
        "hardly any of one lung was found",
        warned=f"less than {100 * ONE_LUNG:.0f} % of the other",
        why="absent or airless; its infected share would be that of the last air in it, and is withheld",
    ),
    "low-confidence": Rule(
        "how much is infected is uncertain: the interval of the infected share says how much",
        warned=f"an interval that reaches another severity class, or wider than {WIDE_PERCENT:g} percentage points",
        why="as wide as class 2, the narrowest but one; it speaks of the result and not of the input: `--strict` "
        "refuses nothing for it",
    ),
    "head-or-abdomen": Rule(
        "said to be of another part of the body, and not all the signs of a chest",
        f"less than {OTHER_PART_LEAST_ML:g} mL of lung (a child's: as `no-lungs`); less than "
        f"{100 * OTHER_PART_LEAST_SHARE:.0f} % of the body's cross-section where there is most; no two lungs side by "
        f"side; more than {100 * OTHER_PART_CUT:.0f} % of the largest lung area on an end slice",
        why="lung bases above an abdomen and bowel gas have some of them; a chest under a wrong name has them all",
    ),
    "no-lungs": Rule(
        "no chest: next to no lung was found, or gas",
        f"less than {LEAST_LUNG_ML:g} mL and {LEAST_LUNG_CM2:g} cm² a slice ("
        + ", ".join(f"{ml:g} and {cm2:g} under {years:g} years" for years, ml, cm2 in CHILD_LEAST_LUNG)
        + f"); less than {GAS_MOST_ML:g} mL of {GAS_HU:g} HU and darker",
        f"less than {100 * LEAST_LUNG_SHARE:.0f} % of the body's cross-section where there is most",
        "one badly collapsed adult lung still holds more, a newborn's two 100 mL; bowel gas is -1000 HU, and emphysema "
        "so dark is large; volume and percent are withheld",
    ),
    "implausible-size": Rule(
        "the image is larger or smaller than any of a chest",
        f"a slice of less than {IN_PLANE_MM_REFUSED[0]:g} or more than {IN_PLANE_MM_REFUSED[1]:g} mm; more than "
        f"{LONG_MM_REFUSED:g} mm from head to feet",
        f"less than {IN_PLANE_MM_WARNED[0]:g} or more than {IN_PLANE_MM_WARNED[1]:g} mm; more than {LONG_MM_WARNED:g}",
        "a newborn's chest is 100 mm wide, the widest bore 850 mm, the longest table 2 m; volume and percent are "
        "withheld",
    ),
    "default-affine": Rule(
        "a file that says steps of 1 mm along the axes, from 0: what stands there when nobody set it",
        warned="always",
        why="neither the voxels' size nor right and left are known; volume and percent are withheld",
    ),
    "implausible-body": Rule(
        "the body is larger or smaller than a person's: the voxel size is wrong",
        f"a cross-section outside {BODY_CM2_REFUSED[0]:g} to {BODY_CM2_REFUSED[1]:g} cm², or "
        f"{BODY_MM_REFUSED[0]:g} to {BODY_MM_REFUSED[1]:g} mm wide",
        f"outside {BODY_CM2_WARNED[0]:g} to {BODY_CM2_WARNED[1]:g} cm² ({ADULT_LEAST_CM2:g} for adults), or "
        f"{BODY_MM_WARNED[0]:g} to {BODY_MM_WARNED[1]:g} mm",
        "a newborn's chest measures 33 cm round, 80 cm²; most adults' 450 to 1300 cm², the most obese 1900; twice the "
        "voxel size is four times the area; volume and percent are withheld",
    ),
    "implausible-lungs": Rule(
        "lungs that nobody has: the voxel size is wrong",
        f"more than {LUNGS_REFUSED * MOST_LUNG_ML:g} mL; height outside {SHAPE_REFUSED[0]:g} to "
        f"{SHAPE_REFUSED[1]:g} times the width of both",
        f"more than {MOST_LUNG_ML:g} mL ("
        + ", ".join(f"{ml:g} under {years:g} years" for years, ml in CHILD_MOST_ML)
        + f"), one lung more than {100 * ONE_OF_BOTH:.0f} % of that; an adult's whole lungs of less than "
        f"{ADULT_LEAST_LUNGS_ML:g} mL; height outside {SHAPE_WARNED[0]:g} to {SHAPE_WARNED[1]:g} times the width",
        "total lung capacity is predicted as up to 9 L for a man of 2 m, with emphysema 2 L more; age by PatientAge; "
        "volume and percent are withheld",
    ),
    "turned": Rule(
        "the lungs do not lie at the patient's right and left, or the spine not behind them",
        f"a cleft between the lungs along another axis than right to left; less than {100 * SPINE_REFUSED:.0f} % of "
        "the midline's bone at the back",
        f"no cleft between two lungs; less than {100 * SPINE_WARNED:.0f} %",
        "a wrong affine or patient position: right would be called left; of the bone in the back and front 30 % of the "
        "body, contrast medium in the heart lies between; volume and percent are withheld",
    ),
    "foreign-objects": Rule(
        "objects under the series' UID that are no slices: structure sets, dose pages, MIPs, slabs",
        warned="note",
        why="set aside: of another kind, or without a place, or in a size, plane or thickness of their own",
    ),
    "rounded-headers": Rule(
        "positions, direction cosines or pixel spacings are rounded so far that slices seem to lie unevenly",
        warned="note",
        why="one even grid has them all within half a unit of the last digit, which neither jitter nor a gap allows",
    ),
    "duplicate-files": Rule("files repeat an instance already there", warned="note", why="each is used once"),
    "filled-headers": Rule(
        "attributes that the results need are missing or not valid", warned="note", why="the report lists them"
    ),
    "no-seg": Rule("a volume file has no DICOM instances to refer to", warned="note", why="see `covct convert`"),
    "clipped": Rule(
        "HU beyond -32768 to 32767 in a volume file that is converted", warned="always", why="16 bits hold no more"
    ),
    "rounded": Rule(
        "fractions of a HU in a volume file that is converted",
        warned="note",
        why="stored in steps as fine as 16 bits allow: 1/16 HU for -1024 to 3071",
    ),
}  # fmt: skip
REFUSED, WARNED, NOTED = "refused", "warned", "noted"
# Whatever is found of these, and not refused for it, withholds volume and percent.
IMPLAUSIBLE = {"no-lungs", "implausible-size", "default-affine", "implausible-body", "implausible-lungs", "turned"}


@dataclass(frozen=True)
class Finding:
    """What the gate found; `level`: refused, warned, or noted (nothing of the figures is in doubt)."""

    slug: str
    message: str
    level: str = WARNED


@dataclass(frozen=True)
class ValidFor:
    """Which figures of the report hold."""

    volume: bool = True
    percent: bool = True
    hu_bands: bool = True

    def __and__(self, other: ValidFor) -> ValidFor:
        """What holds by either."""
        return ValidFor(self.volume and other.volume, self.percent and other.percent, self.hu_bands and other.hu_bands)


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
        message = f"{FORMAT_NAMES[series.kind]} has no DICOM instances to refer to: masks and report, no DICOM SEG"
        return [*_twins(series), Finding("no-seg", message, NOTED)]
    found: list[Finding] = []
    for look in (_identity, _kind, _grid, _positions_in_space, _extents, _contents):
        found += look(series)
        if any_size:
            found = [replace(one, level=WARNED) if one.slug == "implausible-size" else one for one in found]
        if refused := [finding for finding in found if finding.level == REFUSED]:
            return refused
    return found


def _refused(slug: str, message: str) -> Finding:
    return Finding(slug, message, REFUSED)


def _uid_per_slice(series: Series, what: str) -> Finding:
    count = len(series.instances)
    return _refused("uid-per-slice", f"{count} slices of one scan have {what} each, by a faulty anonymiser; wanted one")


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
        yield _uid_per_slice(series, each)
    if series.mixed:
        what = f"{', '.join(series.mixed)} differ{'s' * (len(series.mixed) == 1)} between slices"
        yield _refused(
            "mixed-patients", f"{what} of one series; whose lungs these are is not known, wanted one patient"
        )


def _identity(series: Series) -> Iterator[Finding]:
    yield from _people(series)
    if not series.study_uid or not series.series_uid:
        yield _refused(
            "no-identifiers",
            f"{len(series.instances)} slices without StudyInstanceUID or SeriesInstanceUID; wanted both, since a "
            "result could not be attached to its series",
        )
    elif not series.can_be_referred_to:
        uids = {"StudyInstanceUID": [series.study_uid], "SeriesInstanceUID": [series.series_uid]}
        uids["SOPInstanceUID"] = [i.sop_instance_uid for i in series.instances]
        wrong = [keyword for keyword, values in uids.items() if not all(map(is_uid, values))]
        yield Finding(
            "missing-uids",
            f"{' and '.join(wrong)} missing or no valid UID: NIfTI masks and report, no DICOM objects, which could not "
            "refer to the slices; `covct convert --to dicom` gives them UIDs",
        )


def _kind(series: Series) -> Iterator[Finding]:
    for instance in series.instances:
        kind = kind_of(instance)
        if instance.modality != "CT":
            yield _refused("not-ct", f"modality is {quoted(instance.modality, MODALITIES)}, wanted CT")
        if instance.sop_class_uid.startswith(SECONDARY_CAPTURE):
            yield _refused("derived", "a secondary capture, wanted original slices")
        elif instance.sop_class_uid not in {CT_IMAGE, *MULTI_FRAME_CT}:
            yield _refused("not-ct", f"SOP class is {quoted_uid(instance.sop_class_uid)}, wanted CT Image Storage")
        if instance.concatenated:
            yield _refused("concatenation", "one part of a concatenation; wanted the whole multi-frame image")
        if kind == LOCALIZER:
            yield _refused("localizer", "a localizer (scout) image, not an axial series")
        if kind == DERIVED:
            yield _refused("derived", f"image type is {_image_type(instance)}, wanted original slices")
        if instance.rescale_type.upper() not in HOUNSFIELD_TYPES:
            yield _refused(
                "not-hounsfield", f"RescaleType is {quoted(instance.rescale_type, RESCALE_TYPES)}, wanted HU"
            )

    yield from _reformatted(series)


def _reformatted(series: Series) -> Iterator[Finding]:
    """Averages of axial slices: a chest CT that a department reads every day, where it is sure that they are HU."""
    reformats = [instance for instance in series.instances if kind_of(instance) == REFORMATTED]
    cut = [instance for instance in reformats if is_cut(instance)]
    for instance in cut:
        if instance.rescale is None or instance.rescale_type.upper() not in SURELY_HU:
            message = f"image type is {_image_type(instance)}, without a rescale to HU; wanted averages in HU"
            yield _refused("reformatted", message)
    if 0 < len(cut) < len(series.instances):
        message = f"{len(cut)} reformatted and {len(series.instances) - len(cut)} other slices; wanted one kind"
        yield _refused("reformatted", message)
    if reformats:
        message = f"image type is {_image_type(reformats[0])}: averaged slices, in which small and faint lesions fade"
        yield Finding("reformatted", message)


def _image_type(instance: Instance) -> str:
    return quoted_all(instance.image_type, IMAGE_TYPES)


def _grid(series: Series) -> Iterator[Finding]:
    """Whether the slices are parallel planes of one grid."""
    for instance in series.instances:
        if instance.position is None or instance.orientation is None or instance.pixel_spacing is None:
            yield _refused(
                "no-geometry",
                f"instance {quoted_uid(instance.sop_instance_uid)} lacks ImagePositionPatient, ImageOrientationPatient "
                "or PixelSpacing",
            )
            return
    spacings = np.array([i.pixel_spacing for i in series.instances])
    orientations = np.array([i.orientation for i in series.instances])
    shapes = sorted({i.shape for i in series.instances})
    low, high = spacings.min(), spacings.max()
    if low < PIXEL_MM[0] or high > PIXEL_MM[1] or high > PIXEL_RATIO * low:
        wanted = f"{PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm, nearly square"
        yield _refused("no-geometry", f"PixelSpacing is {_list(spacings[0])} mm; wanted {wanted}")
    if min(map(min, shapes)) < 2:
        yield _refused("no-geometry", f"slices have {_list(shapes[0])} rows and columns")
    if np.abs(np.array([i.position for i in series.instances])).max() > 1e5:
        yield _refused("no-geometry", "ImagePositionPatient is more than 100 m away")
    frames = {i.frame_of_reference_uid for i in series.instances}
    if len(frames) == len(series.instances) > 2:
        yield _uid_per_slice(series, "a FrameOfReferenceUID")
    elif len(frames) > 1:
        yield _refused("mixed-geometry", "slices belong to several frames of reference; wanted one")
    if len(shapes) > 1 or spacing_of(spacings) is None:
        yield _refused("mixed-geometry", f"slices differ in size or pixel spacing ({_list(shapes)}); wanted one grid")
    if orientation_of(orientations) is None:
        yield _refused("mixed-geometry", "slices differ in orientation; wanted parallel slices")
    row, column = orientations[0][:3], orientations[0][3:]
    off = max(0.01, 2 * cosine_unit(orientations))
    if abs(np.linalg.norm(row) - 1) > off or abs(np.linalg.norm(column) - 1) > off or abs(row @ column) > off:
        text = _list(series.instances[0].orientation)
        yield _refused("no-geometry", f"ImageOrientationPatient {text} is no pair of perpendicular unit vectors")


def _positions_in_space(series: Series) -> Iterator[Finding]:
    """Whether the slices follow one another in even steps along one line, and how they lie in the patient."""
    grid = grid_of(series)
    yield from _oblique(_oblique_degrees(np.array([grid.row, grid.column, grid.normal])))
    axial = int(np.argmax(np.abs(grid.normal))) == 2
    if not axial:
        name = ("sagittal", "coronal")[int(np.argmax(np.abs(grid.normal)))]
        if len(series.instances) < FEW_SLICES:
            count = len(series.instances)
            yield _refused("too-few-slices", f"{count} {name} slices; wanted axial ones, or at least {FEW_SLICES}")
        yield Finding("not-axial", f"acquired in {name} slices; axial ones were put together from them")
    if len(series.instances) < 2:
        return
    along = grid.along
    steps = np.diff(along)
    if steps.min() < 0.01:
        yield _doubled(series, along, steps)
        return
    if grid.rounded:
        yield Finding("rounded-headers", f"rounded in the headers: {'; '.join(grid.rounded)}", NOTED)
    middle = float(np.median(steps))
    uneven = unevenness(steps)
    yield from _gaps(grid, steps, middle)
    tilt = grid.tilt_degrees
    spread = f"{steps.min():.2f} to {steps.max():.2f} mm"
    if tilt > TILT_REFUSED_DEGREES:
        yield _refused("gantry-tilt", f"the slices are sheared by {tilt:.1f}°, more than a gantry tilts")
    if uneven > UNEVEN_REFUSED:
        also = f"; the gantry was tilted by {tilt:.1f}° too" if tilt > TILT_WARNED_DEGREES else ""
        yield _refused("uneven-spacing", f"slice steps run from {spread}; wanted one spacing{also}")
    elif uneven > UNEVEN_WARNED:
        yield Finding("uneven-spacing", f"slice steps differ by up to {100 * uneven:.0f} % ({spread})")
    yield from _thick(middle)
    if tilt > TILT_WARNED_DEGREES:
        message = f"the gantry was tilted by {tilt:.1f}°: the masks lie on the tilted slices, volumes are right"
        yield Finding("gantry-tilt", message)
    shift = 0.0 if grid.line else sideways_mm(grid.positions, along)
    if shift > SHIFT_WARNED_MM:
        level = REFUSED if shift > SHIFT_REFUSED_MM else WARNED
        yield Finding("mixed-geometry", f"slices are shifted sideways by up to {shift:.1f} mm; wanted one line", level)


def _oblique(degrees: float) -> Iterator[Finding]:
    if degrees > OBLIQUE_WARNED_DEGREES:
        level = REFUSED if degrees > OBLIQUE_REFUSED_DEGREES else WARNED
        yield Finding("oblique", f"the slices are turned by {degrees:.0f}° against the patient's axes", level)


def _thick(step_mm: float) -> Iterator[Finding]:
    if step_mm > STEP_WARNED_MM:
        level = REFUSED if step_mm > STEP_REFUSED_MM else WARNED
        yield Finding("thick-slices", f"slices lie {step_mm:g} mm apart; lesions between them are not seen", level)


def nifti_geometry(affine: np.ndarray, shape: tuple[int, int, int]) -> list[Finding]:
    """What the headers' part of the gate says of a DICOM series, of a volume file once it is read.

    `affine` (4, 4) brings indices in working orientation to LPS mm; its slices are axial ones. `shape` counts slices,
    rows and columns.

    Raises
    ------
    SeriesError
        `no-geometry`, `oblique`, `thick-slices`, `implausible-size`: as for DICOM.
    """
    slices, rows, columns = (float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    low, high = min(rows, columns), max(rows, columns)
    if low < PIXEL_MM[0] or high > PIXEL_MM[1]:
        wanted = f"{PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm"
        raise SeriesError("no-geometry", f"voxels of an axial slice are {rows:g} x {columns:g} mm; wanted {wanted}")
    found = [
        *_oblique(_oblique_degrees(affine[:3, :3].T)),
        *_thick(round(slices, 3)),
        *size_findings((slices, rows, columns), shape),
    ]
    for finding in found:
        if finding.level == REFUSED:
            raise SeriesError(finding.slug, finding.message)
    return found


def _size(long_mm: float, *in_plane_mm: float) -> Iterator[Finding]:
    """The extent of the image, from head to feet and of an axial slice."""
    small, large = min(in_plane_mm), max(in_plane_mm)
    within = (small >= IN_PLANE_MM_WARNED[0], large <= IN_PLANE_MM_WARNED[1], long_mm <= LONG_MM_WARNED)
    if all(within):
        return
    far = small < IN_PLANE_MM_REFUSED[0] or large > IN_PLANE_MM_REFUSED[1] or long_mm > LONG_MM_REFUSED
    across = " x ".join(f"{mm:.0f}" for mm in in_plane_mm)
    message = f"the image covers {across} mm across the patient and {long_mm:.0f} mm along him: no chest is scanned so"
    yield Finding("implausible-size", message, REFUSED if far else WARNED)


def size_findings(spacing_mm: tuple[float, float, float], shape: tuple[int, ...]) -> list[Finding]:
    """Whether an image of axial slices, rows and columns has a size that chests are scanned in."""
    return list(_size(*(mm * extent for mm, extent in zip(spacing_mm, shape, strict=True))))


def _extents(series: Series) -> Iterator[Finding]:
    """The same of a DICOM series."""
    first = series.instances[0]
    assert first.pixel_spacing and first.orientation
    image = [mm * count for mm, count in zip(first.pixel_spacing, first.shape, strict=True)]  # down, along the rows
    axes = [int(np.argmax(np.abs(cosines))) for cosines in (first.orientation[3:], first.orientation[:3])]
    along = grid_of(series).along
    stack = float(np.ptp(along)) * len(along) / max(1, len(along) - 1)
    long = next((mm for mm, axis in zip(image, axes, strict=True) if axis == 2), stack)
    yield from _size(long, *(mm for mm, axis in zip(image, axes, strict=True) if axis != 2))


def default_affine(affine: np.ndarray) -> list[Finding]:
    """A warning where a file's affine (4, 4) is what libraries write unasked: steps of 1 mm along the axes, from 0."""
    if not np.allclose(np.abs(affine[:3, :3]), np.eye(3), atol=1e-6) or np.abs(affine[:3, 3]).max() > 1e-6:
        return []
    message = "the affine is the identity, as where nobody set it: neither voxel size nor right and left are known"
    return [Finding("default-affine", message)]


def _doubled(series: Series, along: np.ndarray, steps: np.ndarray) -> Finding:
    doubled = int(np.count_nonzero(steps < 0.01))
    if doubled >= MOSTLY * (len(along) - doubled):
        message = f"{doubled} of {len(along)} slices lie where another one does: several scans in one series"
        if told := differing(series.instances):
            words = "; ".join(told)
            return _refused("mixed-acquisitions", f"{message} ({words}), and taken apart by that they are not whole")
        message += ", and nothing in the headers tells them apart"
        unit = float(units_of(np.array([i.position for i in series.instances])).max())
        if 0.01 < steps.max() <= unit * (1 + 1e-6):
            message += f"; or positions that are rounded to {unit:g} mm, coarser than the slices lie"
        return _refused("mixed-acquisitions", message)
    at = along[np.argmin(steps)]
    return _refused("duplicate-slices", f"two different slices lie at the same position ({at:.1f} mm); wanted one each")


def _gaps(grid: Grid, steps: np.ndarray, middle: float) -> Iterator[Finding]:
    """Steps of twice the others' length and more; of rounded positions, what an even line of them lacks."""
    along = grid.along
    if lacking := rounded_gaps(grid):
        where = ", ".join(f"between {along[at]:.1f} and {along[at + 1]:.1f} mm" for at, _ in lacking[:5])
        count = sum(number for _, number in lacking)
        message = f"{count} slices are missing {where} (positions are rounded in the headers)"
        yield _refused("missing-slices", message)
        return
    gaps = [(a, a + step) for a, step in zip(along, steps, strict=False) if step > GAP_FACTOR * middle]
    if gaps and all(abs((b - a) / middle - round((b - a) / middle)) < UNEVEN_REFUSED for a, b in gaps):
        where = ", ".join(f"between {a:.1f} and {b:.1f} mm" for a, b in gaps[:5])
        count = sum(round((b - a) / middle) - 1 for a, b in gaps)
        yield _refused("missing-slices", f"{count} slices are missing {where} (slice step {middle:g} mm)")


def _contents(series: Series) -> Iterator[Finding]:
    """What the headers say of the pixels, of what lies beside them and of what is not there."""
    if series.aside:
        message = f"set aside under the same Series Instance UID, as no slices of it: {described(series.aside)}"
        yield Finding("foreign-objects", message, NOTED)
    yield from _twins(series)
    doubtful = {told for i in series.instances for told in i.doubtful_commas if told.startswith("Rescale")}
    if doubtful:
        yield _refused("decimal-comma", f"{min(doubtful)} may have a comma between thousands; wanted a decimal point")
    if commas := sorted({keyword for i in series.instances for keyword in i.commas}):
        yield Finding("decimal-comma", f"{', '.join(commas)} written with a decimal comma; read as a point", NOTED)
    if any(i.rescale is None for i in series.instances):
        message = "RescaleSlope or RescaleIntercept is missing; 1 and 0 were taken, figures by HU are withheld"
        yield Finding("no-rescale", message)
    if series.unreadable_beside:
        message = f"{series.unreadable_beside} files beside it cannot be read: slices may be missing at an end"
        yield Finding("unreadable-beside", message)
    if any(i.lossy for i in series.instances):
        ratio = max(i.lossy_ratio for i in series.instances)
        said = f" {ratio:g}:1" if ratio else ""
        level = REFUSED if ratio > LOSSY_RATIO_REFUSED else WARNED
        yield Finding("lossy", f"the images were compressed with loss{said}; figures by HU are withheld", level)
    yield from _namings(series)
    yield from _fewer_than_acquired(series)


def _twins(series: Series) -> Iterator[Finding]:
    if count := len(series.twins):
        what = "an instance" if series.kind == "dicom" else "the contents of one"
        message = f"{count} file{'s repeat' if count > 1 else ' repeats'} {what} already there; each is used once"
        if series.copies:
            message += f" ({series.copies} under another patient's name, or none, are left aside)"
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
        yield Finding("mixed-patients", f"{said} not the same in all slices; the rest says that it is one person")
    elif silent:
        yield Finding("mixed-patients", f"{silent} of {len(series.instances)} slices do not say whose they are")


def _fewer_than_acquired(series: Series) -> Iterator[Finding]:
    """Images in Acquisition counts all reconstructions: twice as many and more are another kernel's."""
    counts = Counter((i.acquisition, i.images_in_acquisition) for i in series.instances if not i.frame)
    for (_, declared), count in sorted(counts.items(), key=lambda item: item[0][1]):
        if count < declared < 2 * count:
            yield Finding("missing-slices", f"the header says {declared} images were acquired, {count} are here")


def _oblique_degrees(axes: np.ndarray) -> float:
    """The same of three axes, one a row, of any length."""
    nearest = np.abs(axes).max(axis=1) / np.linalg.norm(axes, axis=1)
    return float(np.degrees(np.arccos(np.clip(nearest.min(), 0, 1))))


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
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g}, as in a mask; {wanted}")
    if low >= 0 and high <= 255:
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g}, an 8-bit grey scale; {wanted}")
    if low >= -10:
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g} without air; {wanted}")
    if np.mean(sample < AIR_HU) < LEAST_AIR_SHARE:
        raise SeriesError("not-hounsfield", f"values run from {low:g} to {high:g} with next to no air; {wanted}")
    dense = sample[sample > AIR_HU]
    tissue = float(np.mean(np.abs(dense) < TISSUE_HU)) if dense.size else 1.0
    if tissue < LEAST_TISSUE_SHARE:
        raise SeriesError("not-hounsfield", f"only {100 * tissue:.0f} % of what is no air is soft tissue; {wanted}")


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
            f"said to be of another part of the body, with {volume_ml:.0f} mL of air inside; wanted a chest CT",
        )


def age_years(value: str | None) -> float | None:
    """PatientAge (0010,1010) in years; None where it is missing, not valid as ``45``, or 0 as anonymisers write."""
    match = re.fullmatch(r"(\d{3})([DWMY])", str(value or "").strip())
    years = int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match[2]] if match else 0.0
    return years or None


def least_lung(age: float | None) -> tuple[float, float]:
    """The least lung of a chest, mL and cm² a slice, at this age in years; unknown: a grown child's or an adult's."""
    for years, ml, cm2 in CHILD_LEAST_LUNG:
        if age is not None and age < years:
            return ml, cm2
    return LEAST_LUNG_ML, LEAST_LUNG_CM2


def most_lung_ml(age: float | None) -> float:
    """The most that both lungs hold at this age in years; unknown: an adult's."""
    return next((ml for years, ml in CHILD_MOST_ML if age is not None and age < years), MOST_LUNG_ML)


def _enclosed_air(hu_slice: np.ndarray) -> int:
    """Pixels of air that are not connected with the border of the slice."""
    air = (hu_slice < AIR_HU).astype(np.uint8)
    _, labels = cv2.connectedComponents(air)
    outside = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return int(np.count_nonzero((air > 0) & ~np.isin(labels, outside[outside > 0])))


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
            f"{volume_ml:.0f} mL of lung found over {extent_mm:.0f} mm; wanted a chest CT ({least_ml:g} mL)",
        )
    if slices < FEW_SLICES:
        message = f"{slices} slice{'s' * (slices > 1)}: the figures describe what is shown, not the lungs"
        return ValidFor(volume=False, percent=False), [Finding("too-few-slices", message)]
    found, whole = [], True
    ends = {name: areas[at] / areas.max() for name, at in (("first", 0), ("last", -1)) if areas[at]}
    if ends:
        message = f"the lungs reach the {' and the '.join(ends)} slice: a part of them was not scanned"
        whole = bool(max(ends.values()) < CUT_WARNED)
        found.append(Finding("partial-lungs", message))
    at_edge = np.count_nonzero([one[0].any() or one[-1].any() or one[:, (0, -1)].any() for one in lungs])
    if at_edge:
        message = f"the lungs reach the edge of the image in {at_edge} slices: a part of them lies outside"
        whole = whole and bool(at_edge < EDGE_CUT * np.count_nonzero(areas))
        found.append(Finding("partial-lungs", message))
    return ValidFor(volume=whole, percent=whole), found


def _list(values) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
