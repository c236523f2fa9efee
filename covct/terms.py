"""The vocabulary: codes, labels, colours, bands. Data only."""

from __future__ import annotations

from dataclasses import dataclass

RIGHT_LUNG, LEFT_LUNG = 1, 2
REGIONS = {"right_lung": (RIGHT_LUNG,), "left_lung": (LEFT_LUNG,), "lungs": (RIGHT_LUNG, LEFT_LUNG)}
THIRDS = ("upper", "middle", "lower")

# HU of opacity. Ground glass as Lung CT Analyzer's "infiltrated"; consolidation up to soft tissue, which
# airless lung reaches; above it vessels with contrast and calcium.
HU_BANDS = {"ground_glass": (-750, -400), "consolidation": (-400, 100)}
# With what lies in neither, they make up the infection: air and aerated lung below, contrast, calcium and bone above.
HU_AROUND = {"below_bands": (float("-inf"), -750), "above_bands": (100, float("inf"))}

# CT severity score of the whole lung by its share of opacity, as LungQuant (Lizzi 2021): class, from percent, words.
SEVERITY_SCALE = "CT-SS (whole lung, 1-5)"
SEVERITY = (
    (1, 0.0, "below 5 %"),
    (2, 5.0, "5 to below 25 %"),
    (3, 25.0, "25 to below 50 %"),
    (4, 50.0, "50 to below 75 %"),
    (5, 75.0, "75 % or more"),
)
NOTHING_FOUND = "no opacity found"  # of 0 %, in place of the words of class 1

# CT severity score by lobes, 0 to 5 each, 25 in all (Pan 2020, with the edges of Francone 2020): from what share of
# opacity a lobe has it, percent, and whether that share itself does. 0: nothing is marked.
LOBE_SCALE = "CT severity score by lobes (0-25)"
LOBE_SCORES = ((1, 0.0, False), (2, 5.0, True), (3, 25.0, False), (4, 50.0, False), (5, 75.0, False))


@dataclass(frozen=True)
class CodedTerm:
    """A code as DICOM carries it: value, coding scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """One segment of the DICOM SEG."""

    number: int
    label: str
    category: CodedTerm
    type: CodedTerm
    modifier: CodedTerm | None
    region: CodedTerm
    colour_rgb: tuple[int, int, int]
    side: CodedTerm | None = None  # modifies the region

    @property
    def task(self) -> str:
        """Of the network that calls it; of lobes those of the atlas, which are none."""
        return "infection" if self.type == OPACITY else "lungs" if self.type == LUNG else "lobes"


ANATOMICAL_STRUCTURE = CodedTerm("91723000", "SCT", "Anatomical Structure")
ABNORMAL_STRUCTURE = CodedTerm("49755003", "SCT", "Morphologically Abnormal Structure")
LUNG = CodedTerm("39607008", "SCT", "Lung")
RIGHT = CodedTerm("24028007", "SCT", "Right")
LEFT = CodedTerm("7771000", "SCT", "Left")
OPACITY = CodedTerm("112001", "DCM", "Opacity")  # what is seen; why it is there nobody has told
BILATERAL = CodedTerm("51440002", "SCT", "Bilateral")
DEVICE = CodedTerm("121007", "DCM", "Device")
PROCESSING_EQUIPMENT = CodedTerm("109102", "DCM", "Processing Equipment")
ARTIFICIAL_INTELLIGENCE = CodedTerm("123110", "DCM", "Artificial Intelligence")
SOURCE_IMAGE = CodedTerm("121322", "DCM", "Source image for image processing operation")


@dataclass(frozen=True)
class Lobe:
    """A lobe: its name in documents, its number in masks, its lung, in words and in short, and coded with its side."""

    name: str
    number: int
    lung: int
    words: str
    short: str
    code: CodedTerm
    side: CodedTerm
    colour_rgb: tuple[int, int, int]


# Codes of DICOM's CID 6170: those of upper and lower lobes need a side.
UPPER_LOBE = CodedTerm("45653009", "SCT", "Upper lobe of lung")
LOBE_OF_LUNG = CodedTerm("31094006", "SCT", "Lobe of lung")
MIDDLE_LOBE = CodedTerm("72481006", "SCT", "Middle lobe of right lung")
LOWER_LOBE = CodedTerm("90572001", "SCT", "Lower lobe of lung")
LOBES = (
    Lobe("right_upper_lobe", 1, RIGHT_LUNG, "Right upper lobe", "RUL", UPPER_LOBE, RIGHT, (66, 146, 226)),
    Lobe("right_middle_lobe", 2, RIGHT_LUNG, "Right middle lobe", "RML", MIDDLE_LOBE, RIGHT, (150, 214, 120)),
    Lobe("right_lower_lobe", 3, RIGHT_LUNG, "Right lower lobe", "RLL", LOWER_LOBE, RIGHT, (170, 130, 220)),
    Lobe("left_upper_lobe", 4, LEFT_LUNG, "Left upper lobe", "LUL", UPPER_LOBE, LEFT, (240, 190, 70)),
    Lobe("left_lower_lobe", 5, LEFT_LUNG, "Left lower lobe", "LLL", LOWER_LOBE, LEFT, (210, 120, 80)),
)

# What the network for infection calls. It was taught on COVID-19 pneumonia and calls tumours, atelectasis and oedema
# too: no object of ours names a disease. Documents keep the name `infection`.
CALLED = "Opacity (COVID-19 network)"

# Blue, yellow and red-pink stay apart for colour-blind readers, and none of them is a grey of the scan.
SEGMENTS = (
    Segment(1, "Right lung", ANATOMICAL_STRUCTURE, LUNG, RIGHT, LUNG, (92, 182, 240), RIGHT),
    Segment(2, "Left lung", ANATOMICAL_STRUCTURE, LUNG, LEFT, LUNG, (246, 214, 84), LEFT),
    Segment(3, CALLED, ABNORMAL_STRUCTURE, OPACITY, None, LUNG, (255, 70, 104)),
)

# On request, in a SEG of overlapping masks. Not a network's but an atlas's, from the shape of the lungs.
LOBE_SEGMENTS = tuple(
    Segment(
        len(SEGMENTS) + lobe.number, f"{lobe.words} (approximate)", ANATOMICAL_STRUCTURE, lobe.code, lobe.side, LUNG,
        lobe.colour_rgb, lobe.side,
    )
    for lobe in LOBES
)  # fmt: skip

# A label map has one segment a voxel. Opacity is split by side, so that a lung is its two segments together.
LABELMAP_SEGMENTS = (
    Segment(1, "Right lung outside opacity", ANATOMICAL_STRUCTURE, LUNG, RIGHT, LUNG, (92, 182, 240), RIGHT),
    Segment(2, "Left lung outside opacity", ANATOMICAL_STRUCTURE, LUNG, LEFT, LUNG, (246, 214, 84), LEFT),
    Segment(3, f"{CALLED}, right lung", ABNORMAL_STRUCTURE, OPACITY, None, LUNG, (255, 70, 104), RIGHT),
    Segment(4, f"{CALLED}, left lung", ABNORMAL_STRUCTURE, OPACITY, None, LUNG, (255, 130, 90), LEFT),
)

# The DICOM SR. Where the standard has no code, ours stand under a private scheme; a value is never given another
# meaning: a changed band is a new code.
PRIVATE_SCHEME = "99COVCT"
CT_OF_SOMETHING = CodedTerm("25045-6", "LN", "CT unspecified body region")
OF_INTEREST = CodedTerm("113000", "DCM", "Of Interest")
REJECTED_FOR_QUALITY = CodedTerm("113001", "DCM", "Rejected for Quality Reasons")
COMMENT = CodedTerm("121106", "DCM", "Comment")
MEASUREMENT_REPORT = CodedTerm("126000", "DCM", "Imaging Measurement Report")
MEASUREMENTS = CodedTerm("126010", "DCM", "Imaging Measurements")
SUM_OF_VOXELS = CodedTerm("126030", "DCM", "Sum of segmented voxel method for volume")
NOT_ATTEMPTED = CodedTerm("114007", "DCM", "Measurement not attempted")
VALUE_UNKNOWN = CodedTerm("114010", "DCM", "Value unknown")
SOURCE = CodedTerm("260753009", "SCT", "Source")
PIXELS = CodedTerm("{pixels}", "UCUM", "Pixels")
IMAGE_POSITION = tuple(
    CodedTerm(value, "DCM", f"Image Position (Patient) {axis}")
    for value, axis in (("110901", "X"), ("110902", "Y"), ("110903", "Z"))
)
THIRD_OF_LUNG = {
    "upper": CodedTerm("264217000", "SCT", "Superior"),
    "middle": CodedTerm("11896004", "SCT", "Intermediate"),
    "lower": CodedTerm("261089000", "SCT", "Inferior"),
}
INTERVAL = CodedTerm("interval", PRIVATE_SCHEME, "What intervals hold")
NOT_TOLD = CodedTerm("not-told", PRIVATE_SCHEME, "Not told by the source")
SINCE = CodedTerm("since", PRIVATE_SCHEME, "Since the last result")
WARNING = CodedTerm("warning", PRIVATE_SCHEME, "Warning about the input")
WITHHELD = CodedTerm("withheld", PRIVATE_SCHEME, "Figures withheld")
SEVERITY_NAME = CodedTerm("246112005", "SCT", "Severity")
SEVERITY_CLASSES = {
    number: CodedTerm(f"ct-ss-{number}", PRIVATE_SCHEME, f"{SEVERITY_SCALE}: class {number}, {words} of the lung")
    for number, _, words in SEVERITY
}

MEAN = CodedTerm("373098007", "SCT", "Mean")
BY_LOBE = CodedTerm("by-lobe", PRIVATE_SCHEME, "What figures by lobe are worth")
LOBES_OF_ATLAS = CodedTerm("lobes-of-atlas", PRIVATE_SCHEME, "Approximate lobes, from the shape of the lungs")


def _private(value: str, meaning: str) -> CodedTerm:
    return CodedTerm(value, PRIVATE_SCHEME, meaning)


@dataclass(frozen=True)
class Unit:
    """A unit as DICOM codes it (UCUM), as pages and tables write it, and in words."""

    code: CodedTerm
    symbol: str
    words: str


MILLILITRE = Unit(CodedTerm("mL", "UCUM", "mL"), "mL", "mL")
PERCENT = Unit(CodedTerm("%", "UCUM", "Percent"), "%", "percent")
GRAM = Unit(CodedTerm("g", "UCUM", "gram"), "g", "grams")
NO_UNITS = Unit(CodedTerm("1", "UCUM", "no units"), "", "points")
HOUNSFIELD_UNIT = Unit(CodedTerm("[hnsf'U]", "UCUM", "Hounsfield unit"), "HU", "Hounsfield units")

# What the input may not allow, and what is withheld then, in words.
VALID_FOR = {
    "volume": "volumes",
    "percent": "shares of opacity, severity class and mean HU of whole lungs",
    "hu_bands": "mass, mean HU, ground glass and consolidation",
}


@dataclass(frozen=True)
class Figure:
    """A figure that is given for each region. The report, its schema, CSV, page, SR, `verify` and docs follow this row.

    Attributes
    ----------
    name : str
        In `report.json`, the unit at its end.
    meaning : str
        What it is, for the schema and the docs.
    digits : int
        Decimals in the report.
    valid_for : tuple of str
        Keys of VALID_FOR: null where the input does not allow one of them.
    null : str
        When else it is null, in words.
    least, most : float or None
        What it may be.
    both : str
        How both lungs follow from right and left: "sum", or "between" the two.
    of_lung, of_infection : CodedTerm or None
        Its concept name in the SR: in the group of a lung (if it is one of opacity too, of a third), and in
        that of opacity. None: not given there.
    derivation : CodedTerm or None
        How the SR says it was derived.
    column : str
        Of `summary.csv`, for both lungs; empty: none.
    column_ends, column_sides : bool
        More columns: `_low` and `_high` of its interval, `_right` and `_left` for each lung.
    label : str
        On the page; empty: not in its list of figures.
    interval : bool
        The report gives an interval with it.
    in_thirds : bool
        It is given for the thirds of a region too.
    later : bool
        Reports of the first version lack it.
    """

    name: str
    meaning: str
    unit: Unit
    digits: int
    valid_for: tuple[str, ...]
    null: str = ""
    least: float | None = 0
    most: float | None = None
    both: str = "sum"
    of_lung: CodedTerm | None = None
    of_infection: CodedTerm | None = None
    derivation: CodedTerm | None = None
    column: str = ""
    column_ends: bool = False
    column_sides: bool = False
    label: str = ""
    interval: bool = False
    in_thirds: bool = False
    later: bool = False


# In the order of the SR, the CSV and the page. `pipeline/burden.py` measures them.
FIGURES = (
    Figure(
        "volume_ml",
        "Volume of the region, opacity included",
        MILLILITRE,
        3,
        ("volume",),
        of_lung=CodedTerm("118565006", "SCT", "Volume"),
        column="lungs_volume_ml",
        label="lungs",
        interval=True,
        in_thirds=True,
    ),
    Figure(
        "infection_ml",
        "Volume of opacity in the region",
        MILLILITRE,
        3,
        ("volume",),
        of_lung=_private("opacity-ml", "Volume of opacity"),
        of_infection=CodedTerm("118565006", "SCT", "Volume"),
        column="infection_ml",
        column_ends=True,
        label="opacity",
        interval=True,
        in_thirds=True,
    ),
    Figure(
        "infection_percent",
        "Share of opacity in the region's volume",
        PERCENT,
        2,
        ("percent",),
        null="for an empty region",
        most=100,
        both="between",
        of_lung=_private("opacity-percent", "Share of opacity in the lung volume"),
        of_infection=_private("opacity-percent", "Share of opacity in the lung volume"),
        column="infection_percent",
        column_ends=True,
        column_sides=True,
        interval=True,
        in_thirds=True,
    ),
    Figure(
        "ground_glass_ml",
        "Volume of opacity in the ground glass band",
        MILLILITRE,
        3,
        ("volume", "hu_bands"),
        of_infection=_private("ground-glass-ml", "Volume of opacity, ground glass (-750 to below -400 HU)"),
        column="ground_glass_ml",
        label="ground glass",
    ),
    Figure(
        "consolidation_ml",
        "Volume of opacity in the consolidation band",
        MILLILITRE,
        3,
        ("volume", "hu_bands"),
        of_infection=_private("consolidation-ml", "Volume of opacity, consolidation (-400 to below 100 HU)"),
        column="consolidation_ml",
        label="consolidation",
    ),
    Figure(
        "below_bands_ml",
        "Volume of opacity below the ground glass band",
        MILLILITRE,
        3,
        ("volume", "hu_bands"),
        of_infection=_private("below-bands-ml", "Volume of opacity below -750 HU"),
        column="below_bands_ml",
        label="below both bands",
        later=True,
    ),
    Figure(
        "above_bands_ml",
        "Volume of opacity above the consolidation band",
        MILLILITRE,
        3,
        ("volume", "hu_bands"),
        of_infection=_private("above-bands-ml", "Volume of opacity from 100 HU on"),
        column="above_bands_ml",
        label="above both bands",
        later=True,
    ),
    Figure(
        "infection_mass_g",
        "Mass of the opacity, at (HU + 1000) / 1000 g/mL",
        GRAM,
        3,
        ("volume", "hu_bands"),
        of_infection=CodedTerm("118538004", "SCT", "Mass"),
        column="infection_mass_g",
        label="opacity mass",
        later=True,
    ),
    Figure(
        "infection_mean_hu",
        "Mean of the opacity",
        HOUNSFIELD_UNIT,
        2,
        ("hu_bands",),
        null="without opacity",
        least=-1024,
        most=3071,
        both="between",
        of_infection=CodedTerm("112031", "DCM", "Attenuation Coefficient"),
        derivation=MEAN,
    ),
    Figure(
        "mean_hu",
        "Mean of all voxels of the region, opacity included",
        HOUNSFIELD_UNIT,
        2,
        ("percent", "hu_bands"),  # of what a scan shows of a lung it would not be the lung's
        null="for an empty region",
        least=-1024,
        most=3071,
        both="between",
        of_lung=CodedTerm("112031", "DCM", "Attenuation Coefficient"),
        derivation=MEAN,
        column="lung_mean_hu",
        column_sides=True,
        label="lung mean",
        later=True,
    ),
)
# By lobe in place of regions. The first three are those of FIGURES with these names.
IN_LOBES = ("volume_ml", "infection_ml", "infection_percent")
SHARE_OF_LOBE = _private("lobe-percent", "Share of opacity in the lobe's volume")
LOBE_SCORE = Figure(
    "score", "CT severity score of the lobe, 0 to 5", NO_UNITS, 0, ("percent",), most=5,
    of_lung=_private("lobe-score", "CT severity score of the lobe (0 to 5)"),
)  # fmt: skip
LOBES_SCORE = Figure(
    "score", "CT severity score of all lobes, 0 to 25", NO_UNITS, 0, ("percent",), most=25,
    of_lung=_private("lobes-score", "CT severity score of the five lobes (0 to 25)"),
)  # fmt: skip
