"""The vocabulary: codes, labels, colours, bands. Data only."""

from __future__ import annotations

from dataclasses import dataclass

RIGHT_LUNG, LEFT_LUNG = 1, 2
REGIONS = {"right_lung": (RIGHT_LUNG,), "left_lung": (LEFT_LUNG,), "lungs": (RIGHT_LUNG, LEFT_LUNG)}
THIRDS = ("upper", "middle", "lower")

# HU of infected voxels. Ground glass as Lung CT Analyzer's "infiltrated"; consolidation up to soft tissue, which
# airless lung reaches; above it vessels with contrast and calcium.
HU_BANDS = {"ground_glass": (-750, -400), "consolidation": (-400, 100)}

# CT severity score of the whole lung by infected share, as LungQuant (Lizzi 2021): class, from percent, words.
SEVERITY_SCALE = "CT-SS (whole lung, 1-5)"
SEVERITY = (
    (1, 0.0, "below 5 %"),
    (2, 5.0, "5 to below 25 %"),
    (3, 25.0, "25 to below 50 %"),
    (4, 50.0, "50 to below 75 %"),
    (5, 75.0, "75 % or more"),
)


@dataclass(frozen=True)
class CodedTerm:
    """A code as DICOM carries it: value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Quantity:
    """What a number of the DICOM SR says: concept name, unit, and how it was derived."""

    name: CodedTerm
    unit: CodedTerm
    derivation: CodedTerm | None = None


@dataclass(frozen=True)
class Segment:
    """One segment of the DICOM SEG."""

    number: int
    label: str
    category: CodedTerm
    type: CodedTerm
    modifier: CodedTerm | None
    region: CodedTerm | None
    colour_rgb: tuple[int, int, int]
    side: CodedTerm | None = None  # modifies the region


ANATOMICAL_STRUCTURE = CodedTerm("91723000", "SCT", "Anatomical Structure")
ABNORMAL_STRUCTURE = CodedTerm("49755003", "SCT", "Morphologically Abnormal Structure")
LUNG = CodedTerm("39607008", "SCT", "Lung")
RIGHT = CodedTerm("24028007", "SCT", "Right")
LEFT = CodedTerm("7771000", "SCT", "Left")
INFILTRATE = CodedTerm("47351003", "SCT", "Infiltrate")
COVID_19 = CodedTerm("840539006", "SCT", "COVID-19")
BILATERAL = CodedTerm("51440002", "SCT", "Bilateral")
DEVICE = CodedTerm("121007", "DCM", "Device")
PROCESSING_EQUIPMENT = CodedTerm("109102", "DCM", "Processing Equipment")
ARTIFICIAL_INTELLIGENCE = CodedTerm("123110", "DCM", "Artificial Intelligence")
SOURCE_IMAGE = CodedTerm("121322", "DCM", "Source Image for Image Processing Operation")

# Blue, yellow and red-pink stay apart for colour-blind readers, and none of them is a grey of the scan.
SEGMENTS = (
    Segment(1, "Right lung", ANATOMICAL_STRUCTURE, LUNG, RIGHT, None, (92, 182, 240)),
    Segment(2, "Left lung", ANATOMICAL_STRUCTURE, LUNG, LEFT, None, (246, 214, 84)),
    Segment(3, "COVID-19 infection", ABNORMAL_STRUCTURE, INFILTRATE, COVID_19, LUNG, (255, 70, 104)),
)

# A label map has one segment a voxel. Infection is split by side, so that a lung is its two segments together.
LABELMAP_SEGMENTS = (
    Segment(1, "Right lung outside infection", ANATOMICAL_STRUCTURE, LUNG, RIGHT, None, (92, 182, 240)),
    Segment(2, "Left lung outside infection", ANATOMICAL_STRUCTURE, LUNG, LEFT, None, (246, 214, 84)),
    Segment(3, "COVID-19 infection, right lung", ABNORMAL_STRUCTURE, INFILTRATE, COVID_19, LUNG, (255, 70, 104), RIGHT),
    Segment(4, "COVID-19 infection, left lung", ABNORMAL_STRUCTURE, INFILTRATE, COVID_19, LUNG, (255, 130, 90), LEFT),
)

# The DICOM SR. Where the standard has no code, ours stand under a private scheme; a value is never given another
# meaning: a changed band is a new code.
PRIVATE_SCHEME = "99COVCT"
CT_CHEST = CodedTerm("24627-2", "LN", "CT Chest")
OF_INTEREST = CodedTerm("113000", "DCM", "Of Interest")
COMMENT = CodedTerm("121106", "DCM", "Comment")
WARNING = CodedTerm("warning", PRIVATE_SCHEME, "Warning about the input")
WITHHELD = CodedTerm("withheld", PRIVATE_SCHEME, "Figures withheld")
SEVERITY_NAME = CodedTerm("246112005", "SCT", "Severity")
SEVERITY_CLASSES = {
    number: CodedTerm(f"ct-ss-{number}", PRIVATE_SCHEME, f"{SEVERITY_SCALE}: class {number}, {words} infected")
    for number, _, words in SEVERITY
}

MILLILITRE = CodedTerm("mL", "UCUM", "mL")
PERCENT = CodedTerm("%", "UCUM", "Percent")
HOUNSFIELD_UNIT = CodedTerm("[hnsf'U]", "UCUM", "Hounsfield unit")
MEAN = CodedTerm("373098007", "SCT", "Mean")


def _private(value: str, meaning: str) -> CodedTerm:
    return CodedTerm(value, PRIVATE_SCHEME, meaning)


# By the report's names of a region's figures; the last is the infection's own.
QUANTITIES = {
    "volume_ml": Quantity(CodedTerm("118565006", "SCT", "Volume"), MILLILITRE),
    "infection_ml": Quantity(_private("infected-ml", "Infected volume"), MILLILITRE),
    "infection_percent": Quantity(_private("infected-percent", "Infected share of the lung volume"), PERCENT),
    "ground_glass_ml": Quantity(
        _private("ground-glass-ml", "Infected volume, ground glass (-750 to below -400 HU)"), MILLILITRE
    ),
    "consolidation_ml": Quantity(
        _private("consolidation-ml", "Infected volume, consolidation (-400 to below 100 HU)"), MILLILITRE
    ),
    "infection_mean_hu": Quantity(
        _private("infected-mean-hu", "Attenuation of the infected voxels"), HOUNSFIELD_UNIT, MEAN
    ),
    "mean_hu": Quantity(CodedTerm("112031", "DCM", "Attenuation Coefficient"), HOUNSFIELD_UNIT, MEAN),
}
