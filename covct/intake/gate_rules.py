"""The rules of the input gate: what is refused, what only warned of, and why these numbers. docs/gate.md lists them."""

from __future__ import annotations

from dataclasses import dataclass

from covct.intake.grid import COSINE_TOLERANCE, SHIFT_WARNED_MM, UNEVEN_WARNED
from covct.intake.scattered import FEWEST
from covct.intake.split import MOSTLY

TILT_REFUSED_DEGREES, TILT_WARNED_DEGREES = 30.5, 0.1
TILTED_MASKS = (
    "the masks lie on the tilted slices, and volumes are right; SimpleITK refuses NIfTI masks with such a shear"
)
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
LEAST_TISSUE_SHARE, NEAR_WATER_HU = 0.3, 250
SURELY_HU = {"", "HU"}  # of what is averaged: of an original slice the scanner's word is enough
HOUNSFIELD_TYPES = {"", "HU", "HU_MOD", "US"}  # US: unspecified, as many archives write
AIR_BELOW_HU, LEAST_AIR_SHARE = -500, 0.002  # a chest CT holds air; so does nearly every other CT
PADDING_HU = -1024  # what reading makes of padding (that of `volume`, which is too heavy to import here)


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
    "derived": Rule("a MIP, a coronal or sagittal reformat, a rendering or a secondary capture", "always"),
    "reformatted": Rule(
        "axial slices that were averaged, or computed from other slices",
        "if original slices are there too; if they may not be in HU",
        "always",
        "averages are still HU, but small and faint lesions fade; used only if a study has nothing better",
    ),
    "no-identifiers": Rule("no StudyInstanceUID or SeriesInstanceUID to attach a result to", "always"),
    "mixed-patients": Rule(
        "the slices of a series name different patients",
        "different PatientIDs of one issuer, or different names; a name here and an ID there, with nothing in common; "
        "an incomplete copy without a name beside its original",
        "one person spelled in two ways, or slices that name nobody",
        "it is not known whose lungs these are; the same PatientID and birth date are one person, whatever the name",
    ),
    "missing-uids": Rule(
        "SOP Instance, Series or Study Instance UIDs are missing or invalid",
        warned="always",
        why="no DICOM object could refer to the slices: report and NIfTI masks are written instead, until "
        "`covct convert --to dicom` has given them UIDs",
    ),
    "uid-per-slice": Rule(
        "each slice of a scan has a StudyInstanceUID, SeriesInstanceUID or FrameOfReferenceUID of its own",
        f"always; for study and series if at least {FEWEST} slices form an even stack",
        why="made by faulty anonymisers; a result per slice would be meaningless",
    ),
    "no-geometry": Rule(
        "position, orientation or pixel spacing is missing or impossible",
        f"missing; pixels outside {PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm or {PIXEL_RATIO:g} times longer than wide",
        why="no scanner produces these",
    ),
    "mixed-geometry": Rule(
        "slices differ in size, spacing, orientation or frame of reference, or are shifted sideways",
        f"any; cosines by more than {COSINE_TOLERANCE:g}; shifts above {SHIFT_REFUSED_MM:g} mm",
        f"shifts above {SHIFT_WARNED_MM:g} mm",
        "headers round cosines to 6 digits; a shift of a few mm splits what belongs together in neighbouring slices",
    ),
    "mixed-acquisitions": Rule(
        "several scans in one series that the headers do not distinguish",
        f"at least {100 * MOSTLY:.0f} % of the positions occur twice",
        why="if acquisition, time, kernel, numbers, cardiac phase or energy distinguish them, each is a candidate",
    ),
    "concatenation": Rule("one part of a multi-frame image that was split into several", "always"),
    "duplicate-slices": Rule("different slices at one position", "always", why="it is unknown which is right"),
    "conflicting-files": Rule(
        "two files with one SOP Instance UID hold different pixels", "always", why="it is unknown which is right"
    ),
    "missing-slices": Rule(
        "slices are missing; their positions in mm are given",
        f"a step of {GAP_FACTOR:g} times the median or more",
        "fewer slices than the header says were acquired",
        "jitter is far smaller; slices missing at an end show only in the count",
    ),
    "too-few-slices": Rule(
        "the series does not contain whole lungs",
        f"fewer than {FEW_SLICES} coronal or sagittal slices",
        f"fewer than {FEW_SLICES}",
        "volume and percent are withheld: they would describe the slices, not the lungs",
    ),
    "gantry-tilt": Rule(
        "the gantry was tilted",
        f"more than {TILT_REFUSED_DEGREES:g}°",
        f"more than {TILT_WARNED_DEGREES:g}°",
        "gantries tilt by up to 30°; volumes and masks are right on tilted slices, yet SimpleITK refuses NIfTI files "
        "with a shear; 0.1° shears a chest by 0.5 mm",
    ),
    "oblique": Rule(
        "the slices are rotated against the patient's axes",
        f"more than {OBLIQUE_REFUSED_DEGREES:g}°",
        f"more than {OBLIQUE_WARNED_DEGREES:g}°",
        "the networks were trained on axial slices; beyond 45° left and front could be confused",
    ),
    "not-axial": Rule(
        "acquired in coronal or sagittal slices", warned="always", why="axial slices were computed from them"
    ),
    "uneven-spacing": Rule(
        "the distances between slices differ",
        f"more than {100 * UNEVEN_REFUSED:.0f} % of the median",
        f"more than {100 * UNEVEN_WARNED:.0f} %",
        "volumes are wrong by about as much",
    ),
    "thick-slices": Rule(
        "slices are far apart",
        f"more than {STEP_REFUSED_MM:g} mm",
        f"more than {STEP_WARNED_MM:g} mm",
        "lesions between two slices are missed; 5 mm is common, 10 mm is an old HRCT",
    ),
    "not-hounsfield": Rule(
        "grey values (0..255, 0..4095, a mask, colours) instead of Hounsfield units",
        f"RescaleType other than HU; no air (below {AIR_BELOW_HU} HU); of what is denser, less than "
        f"{100 * LEAST_TISSUE_SHARE:.0f} % within {NEAR_WATER_HU} HU of water",
    ),
    "decimal-comma": Rule(
        "numbers are written with a decimal comma",
        "a RescaleSlope or RescaleIntercept in which the comma may separate thousands (-1,024)",
        "note",
        "DICOM uses points; what is meant is nearly always clear",
    ),
    "no-rescale": Rule(
        "RescaleSlope or RescaleIntercept is missing",
        warned="always",
        why="1 and 0 are assumed; figures that depend on HU are withheld",
    ),
    "lossy": Rule(
        "the images were compressed lossily",
        f"a ratio above {LOSSY_RATIO_REFUSED:g}:1",
        "always",
        "guidelines allow 8:1 to 15:1 for reading chest CT; figures that depend on HU are withheld",
    ),
    "not-3d": Rule("a NIfTI, MetaImage or NRRD with more than one volume", "always"),
    "unreadable": Rule("a file is truncated, damaged or cannot be decoded; it is named", "always"),
    "not-read": Rule("files that may hold images, of a kind that is not read; each kind is reported once", "always"),
    "nothing-read": Rule(
        "a source holds files, and none of them could be read",
        "always",
        why="exit code 3; the viewer and pages of a patient CD do not count as files",
    ),
    "too-large": Rule(
        "more voxels than fit into memory",
        "more memory than the machine, the container or `--memory-limit` has",
        why="1500 x 768 x 768 need 4 GiB; tried again in every pass, since there may be more memory by then",
    ),
    "unreadable-beside": Rule("files beside the series cannot be read", warned="always", why="they may be its slices"),
    "partial-lungs": Rule(
        "the lungs reach the first or last slice, or the edge of the image",
        warned="always",
        why=f"if more than {100 * CUT_WARNED:.0f} % of the largest lung area lies on an end slice, or more than "
        f"{100 * EDGE_CUT:.0f} % of the slices are cut at the edge, volume and percent are withheld",
    ),
    "one-lung": Rule(
        "very little of one lung was found",
        warned=f"less than {100 * ONE_LUNG:.0f} % of the other",
        why="absent or airless; its share of opacity would describe only the air left in it, and is withheld",
    ),
    "low-confidence": Rule(
        "the share of opacity is uncertain: its interval says how much",
        warned=f"an interval that reaches another severity class, or wider than {WIDE_PERCENT:g} percentage points",
        why="20 points is the width of class 2; it is about the result, not the input, so `--strict` does not refuse "
        "a series for it",
    ),
    "out-of-distribution": Rule(
        "the scan looks like nothing that the infection network learned from",
        warned="the median distance of its slices' features from those learned is above the card's limit",
        why="noise, kernel, contrast, modality or patient are unusual, and nobody has measured what the figures are "
        "worth there: no interval is given; a card without a limit warns of nothing",
    ),
    "head-or-abdomen": Rule(
        "said to show another part of the body, and lacks a sign of a chest",
        f"less than {OTHER_PART_LEAST_ML:g} mL of lung (a child's: as for `no-lungs`); lung less than "
        f"{100 * OTHER_PART_LEAST_SHARE:.0f} % of the body's cross-section at its largest; no two lungs side by "
        f"side; more than {100 * OTHER_PART_CUT:.0f} % of the largest lung area on an end slice",
        why="lung bases above an abdomen, and bowel gas, have some of these signs; a chest with a wrong label has all",
    ),
    "no-lungs": Rule(
        "no chest: almost no lung was found, or only gas",
        f"less than {LEAST_LUNG_ML:g} mL and {LEAST_LUNG_CM2:g} cm² per slice ("
        + ", ".join(f"{ml:g} and {cm2:g} under {years:g} years" for years, ml, cm2 in CHILD_LEAST_LUNG)
        + f"); less than {GAS_MOST_ML:g} mL with a median below {GAS_HU:g} HU",
        f"less than {100 * LEAST_LUNG_SHARE:.0f} % of the body's cross-section at its largest",
        "one badly collapsed adult lung still holds more, a newborn's two hold 100 mL; bowel gas is -1000 HU, and "
        "lungs with emphysema that dark are large; volume and percent are withheld",
    ),
    "implausible-size": Rule(
        "the image is larger or smaller than any image of a chest",
        f"a slice smaller than {IN_PLANE_MM_REFUSED[0]:g} or larger than {IN_PLANE_MM_REFUSED[1]:g} mm; more than "
        f"{LONG_MM_REFUSED:g} mm from head to feet",
        f"smaller than {IN_PLANE_MM_WARNED[0]:g} or larger than {IN_PLANE_MM_WARNED[1]:g} mm; more than "
        f"{LONG_MM_WARNED:g} mm",
        "a newborn's chest is 100 mm wide, the widest bore 850 mm, the longest table 2 m; volume and percent are "
        "withheld",
    ),
    "default-affine": Rule(
        "the affine is the default (steps of 1 mm along the axes, origin 0), as if nobody had set it",
        warned="always",
        why="neither the voxel size nor right and left are known; volume and percent are withheld",
    ),
    "implausible-body": Rule(
        "the body is larger or smaller than any person's: the voxel size is wrong",
        f"a cross-section outside {BODY_CM2_REFUSED[0]:g} to {BODY_CM2_REFUSED[1]:g} cm², or "
        f"{BODY_MM_REFUSED[0]:g} to {BODY_MM_REFUSED[1]:g} mm wide",
        f"outside {BODY_CM2_WARNED[0]:g} to {BODY_CM2_WARNED[1]:g} cm² ({ADULT_LEAST_CM2:g} for adults), or "
        f"{BODY_MM_WARNED[0]:g} to {BODY_MM_WARNED[1]:g} mm",
        "a newborn's chest is 33 cm around and 80 cm², most adults' are 450 to 1300 cm², the most obese 1900; doubling "
        "the voxel size makes the area four times as large; volume and percent are withheld",
    ),
    "implausible-lungs": Rule(
        "no person has such lungs: the voxel size is wrong",
        f"more than {LUNGS_REFUSED * MOST_LUNG_ML:g} mL; height outside {SHAPE_REFUSED[0]:g} to "
        f"{SHAPE_REFUSED[1]:g} times the width of both",
        f"more than {MOST_LUNG_ML:g} mL ("
        + ", ".join(f"{ml:g} under {years:g} years" for years, ml in CHILD_MOST_ML)
        + f"), or one lung more than {100 * ONE_OF_BOTH:.0f} % of that; an adult's whole lungs less than "
        f"{ADULT_LEAST_LUNGS_ML:g} mL; height outside {SHAPE_WARNED[0]:g} to {SHAPE_WARNED[1]:g} times the width",
        "predicted total lung capacity is up to 9 L for a man of 2 m, 2 L more with emphysema; age is PatientAge; "
        "volume and percent are withheld",
    ),
    "turned": Rule(
        "the lungs are not at the patient's right and left, or the spine is not behind them",
        f"the lungs are separated along another axis than right to left; less than {100 * SPINE_REFUSED:.0f} % of "
        "the midline's bone is at the back",
        f"two lungs are not separated; less than {100 * SPINE_WARNED:.0f} %",
        "a wrong affine or patient position would exchange right and left; only bone in the back and front 30 % of the "
        "body counts, since contrast medium in the heart lies between; volume and percent are withheld",
    ),
    "foreign-objects": Rule(
        "objects under the series' UID that are not slices: structure sets, dose pages, MIPs, slabs",
        warned="note",
        why="set aside: of another kind, without a position, or of another size, plane or thickness",
    ),
    "rounded-headers": Rule(
        "positions, direction cosines or pixel spacings are rounded so coarsely that the slices seem unevenly spaced",
        warned="note",
        why="one even grid explains all of them to half a unit of the last digit, which jitter or a gap would not",
    ),
    "duplicate-files": Rule("files that repeat an instance", warned="note", why="each is used once"),
    "filled-headers": Rule(
        "attributes that the results need are missing or invalid", warned="note", why="the report lists them"
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


def least_lung(age: float | None) -> tuple[float, float]:
    """The least lung of a chest, mL and cm² a slice, at this age in years; unknown: a grown child's or an adult's."""
    for years, ml, cm2 in CHILD_LEAST_LUNG:
        if age is not None and age < years:
            return ml, cm2
    return LEAST_LUNG_ML, LEAST_LUNG_CM2


def most_lung_ml(age: float | None) -> float:
    """The most that both lungs hold at this age in years; unknown: an adult's."""
    return next((ml for years, ml in CHILD_MOST_ML if age is not None and age < years), MOST_LUNG_ML)


def refusal(slug: str, message: str) -> Finding:
    """A finding that refuses the series."""
    return Finding(slug, message, REFUSED)
