"""The document of one result, `report.json`: its figures by the rows of `terms.FIGURES`, and all that explains them.

Every key is written. A field with a default came later than the first version: earlier reports lack it, and are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from covct.disk import versions
from covct.disk.documents import Count, DamagedDocument, Document, Sha256
from covct.disk.versions import ReportSchema
from covct.pipeline.report_figures import Least, Regions, SeverityClass, Slug, Text, withheld_figures
from covct.pipeline.report_lobes import WITHHELD as WITHHELD_BY_LOBE
from covct.pipeline.report_lobes import Lobes
from covct.pipeline.report_since import Since
from covct.pipeline.report_suspicion import Suspicion
from covct.pipeline.report_uncertainty import Uncertainty
from covct.terms import VALID_FOR

Side = Literal["right_lung", "left_lung"]
ReadFrom = Literal["dicom", "nifti", "metaimage", "nrrd"]
FieldOfView = Literal["body", "otsu-body", "whole", "lung-contours", "lung-mask"]
# Beside the regions' figures: what `valid_for` withholds, "*" for every item.
WITHHELD = {
    "volume": (("lesions", "largest", "*", "volume_ml"),),
    "percent": (
        ("severity", "class"),
        ("uncertainty", "lowest_class"),
        ("uncertainty", "highest_class"),
        ("uncertainty", "nearest_class"),
        ("uncertainty", "low_confidence"),
    ),
    "hu_bands": (),
}


class Source(Document):
    """The input."""

    format: ReadFrom = Field(description="What was read.")
    study_instance_uid: str | None = Field(
        description="Study Instance UID (0020,000D), as the source has it. Null for volume files."
    )
    series_instance_uid: str | None = Field(
        description="Series Instance UID (0020,000E), as the source has it. Null for volume files."
    )
    frame_of_reference_uid: str | None = Field(
        description="Frame of Reference UID (0020,0052). Null where the source has none."
    )
    instances: int = Field(ge=1, description="Number of DICOM instances, or 1 for a volume file.")
    path: str | None = Field(description="Path of the volume file below its source; null for DICOM.")
    transfer_syntaxes: list[str] = Field(
        description="Transfer Syntax UIDs of the instances; empty for volume files.",
        json_schema_extra={"uniqueItems": True},
    )
    lossy: bool = Field(description="Whether any instance was ever compressed with loss (0028,2110).")
    kernel: Text | None = Field(
        None, description="Convolution Kernel (0018,1210), where it looks like one; null for volume files."
    )
    contrast: bool | None = Field(
        None, description="Whether the headers tell of a contrast agent (0018,0010); null for volume files."
    )
    filled: list[Text] = Field(
        [],
        description="Attributes that were missing or not valid, and what the DICOM results carry in their place. None "
        "of it is taken for the patient's.",
        json_schema_extra={"uniqueItems": True},
    )


class LeftOut(Document):
    """A series that was not segmented."""

    series_instance_uid: str | None = Field(description="Series Instance UID (0020,000E).")
    slug: Slug
    message: Text = Field(description="Why, in one sentence.")


class Selection(Document):
    """Why this series of its study."""

    reasons: list[Text] = Field(description="What spoke for the series, in words.")
    left_out: list[LeftOut] = Field(description="The study's other series.")


class Geometry(Document):
    """The source grid."""

    slices: int = Field(ge=1, description="Number of slices.")
    rows: int = Field(ge=1, description="Rows of a slice, pixels.")
    columns: int = Field(ge=1, description="Columns of a slice, pixels.")
    slice_spacing_mm: float | None = Field(
        gt=0,
        description="Distance between slice centres, mm; of a single slice its thickness. Null where it is unknown.",
    )
    row_spacing_mm: float = Field(gt=0, description="Distance between rows, mm.")
    column_spacing_mm: float = Field(gt=0, description="Distance between columns, mm.")
    voxel_volume_mm3: float | None = Field(
        gt=0, description="Volume of a voxel, mm³. Null where the slice spacing is unknown."
    )
    patient_orientation: str = Field(
        pattern="^[LRAPFH]{3}$",
        description="Where the source's slice, row and column index point in the patient, one letter an axis: L, R, A, "
        "P, F (feet) or H (head).",
    )
    gantry_tilt_degrees: float = Field(
        0.0,
        ge=0,
        description="Angle between the way from slice to slice and the slices' normal; the slice spacing is along the "
        "normal.",
    )


class ValidFor(Document):
    """Which figures the input allows; those it does not allow are null."""

    volume: bool = Field(description="Volumes in mL: the lungs are whole and the spacing is known.")
    percent: bool = Field(description="Shares of opacity in percent.")
    hu_bands: bool = Field(
        description="Hounsfield bands and means: values are calibrated and not compressed with loss."
    )


class Warned(Document):
    """Something a reader of the figures should know."""

    slug: Slug
    message: Text = Field(description="One sentence.")


class Lesion(Document):
    """One lesion."""

    volume_ml: float | None = Field(ge=0, description="Volume, mL. Null where valid_for.volume is false.")
    centroid_lps_mm: tuple[float, float, float] = Field(
        description="Centroid in the patient: x to the left, y to the back, z to the head, mm."
    )
    side: Side = Field(description="The lung that holds most of it.")


class Lesions(Document):
    """Connected regions of opacity."""

    connectivity: Literal[6] = Field(6, description="Voxels are connected through their 6 faces, not edges or corners.")
    count: int = Field(ge=0, description="Number of lesions not smaller than smallest_counted_ml.")
    smallest_counted_ml: float | None = Field(
        ge=0, description="Smaller regions are not counted, mL. Null for a single slice."
    )
    smallest_counted_voxels: int | None = Field(
        None,
        ge=1,
        description="The fewest voxels that come to so much. Where slices are thick these are few, and a lesion of one "
        "slice has to be the larger in it. Null for a single slice.",
    )
    largest: list[Lesion] = Field(description="The largest lesions, largest first.")


class ThirdsDivided(Document):
    """Where the thirds lie: the same slices for each region, so that right and left add up to both."""

    by: Literal["height"] = Field(
        description="height: three equal heights from the first to the last slice that holds a lung. Carina and "
        "pulmonary veins are not looked for."
    )
    edges: tuple[Count, Count, Count, Count] = Field(
        description="First slice of the upper, the middle and the lower third, and the one after the last, counted "
        "from the head, from 0."
    )


class Severity(Document):
    """CT severity score."""

    scale: Text = Field(description="Name of the scale.")
    class_: SeverityClass | None = Field(
        alias="class", description="Class by the share of opacity in both lungs; null where there is no percentage."
    )
    label: str = Field(description="The class in words.")


class InView(Document):
    """What was called of the lung that the scan shows, where it does not allow the share of the lungs."""

    called_percent: float = Field(
        ge=0,
        le=100,
        description="Share of opacity in the lung in view, percent: to say what to look at first. It is no share of "
        "the lungs, and has no severity class.",
    )


class HuBands(Document):
    """Bands that split the opacity, Hounsfield units, from (included) and to (not included)."""

    ground_glass: tuple[int, int] = Field(description="Ground glass, HU.")
    consolidation: tuple[int, int] = Field(description="Consolidation, HU.")


class Named(Document):
    """A function of the program, and what it is called with."""

    name: Text = Field(description="Its name.")
    arguments: dict[str, int | float | Text] = Field(description="Its arguments, by name.")


class Member(Document):
    """One of the networks whose mean is taken."""

    name: Text = Field(description="Name of the weights.")
    sha256: Sha256 = Field(description="sha256 of the weights file.")


class NetworkUsed(Document):
    """One network, as its weight card describes it."""

    name: Text = Field(description="Name of the weights.")
    sha256: Sha256 = Field(description="sha256 of the weights file.")
    threshold: float = Field(ge=0, le=1, description="Probability from which a voxel counts.")
    licence: Text = Field(description="Licence of the weights.")
    architecture: Named | None = Field(None, description="Name and arguments of the network's architecture.")
    recipe: Named | None = Field(None, description="Name and arguments of the intensity preprocessing.")
    field_of_view: FieldOfView | None = Field(None, description="What the network looks at.")
    flip: bool | None = Field(None, description="Whether the mirror image is predicted too, and the mean taken.")
    scores: dict[str, int | float] = Field({}, description="Scores on patients held out from training, by name.")
    limits: str = Field("", description="What the network is known to do badly.")
    members: list[Member] = Field(
        [], description="The same network trained on other folds, where there are any: the mean of all is taken."
    )


class NetworksUsed(Document):
    """The networks that drew the masks."""

    lungs: NetworkUsed = Field(description="The network that found the lungs.")
    infection: NetworkUsed = Field(description="The network that found infection.")
    empty_slices: NetworkUsed | None = Field(
        None,
        description="The network that told which slices hold no infection, and spared the infection network these. "
        "Null where there is none.",
    )
    skipped_slices: int = Field(
        0,
        ge=0,
        description="Number of slices with lung in which infection was not looked for, since that network called them "
        "empty.",
    )


class DeviceUsed(Document):
    """Where the networks ran."""

    kind: Literal["cpu", "gpu"] = Field(description="Kind of processor.")
    name: str = Field(description="Name of the processor.")
    batch: int | None = Field(
        None, ge=1, description="Slices computed at once, at the fewest. Null where slices are not batched."
    )
    fallbacks: list[Text] = Field(
        [], description="What was tried first (OpenVINO, more slices, a GPU), and why not that."
    )
    runtime: str | None = Field(None, description="What computed the networks: openvino, tensorflow or jax.")
    precision: str | None = Field(None, description="Numbers they were computed in: bfloat16 or float32.")


class Run(Document):
    """How the result was computed. Differs from run to run."""

    device: DeviceUsed = Field(description="Where the networks ran.")
    timings_s: dict[str, Least] = Field(description="Time of each step, seconds.")
    peak_memory_mib: float | None = Field(ge=0, description="Largest resident memory of the process so far, MiB.")


class Report(Document):
    """Lung and infection figures of one chest CT series. Research use only. Not a medical device.

    Lengths in mm, volumes in mL, densities in Hounsfield units; coordinates are DICOM's LPS. Left and right are the
    patient's. A figure that cannot be given is null, never 0.
    """

    PUBLISHED_AS: ClassVar[str] = versions.REPORT
    TITLE: ClassVar[str] = "covct report"

    schema_: ReportSchema = Field(alias="schema", description="Name and version of this format.")
    research_use: Literal["Research use only. Not a medical device."] = Field(
        description="What the figures may be used for."
    )
    covct_version: str = Field(
        pattern=r"^[0-9]+\.[0-9]+\.[0-9]+", description="Version of the program that wrote the report."
    )
    work_key: Sha256 = Field(
        description="sha256 of the input's identity, the settings, the weights and the result version: same key, same "
        "result."
    )
    source: Source = Field(description="The input.")
    selection: Selection = Field(description="Why this series of its study.")
    geometry: Geometry = Field(description="The source grid.")
    valid_for: ValidFor = Field(description="Which figures the input allows; those it does not allow are null.")
    warnings: list[Warned] = Field(description="What a reader of the figures should know.")
    regions: Regions = Field(description="Figures by region.")
    thirds: ThirdsDivided | None = Field(
        None,
        description="Where the thirds of the regions lie. Absent from earlier reports, in which each region was "
        "divided by its own height.",
    )
    lesions: Lesions = Field(description="Connected regions of opacity.")
    severity: Severity = Field(description="CT severity score.")
    uncertainty: Uncertainty | None = Field(None, description="What the intervals of the regions are worth.")
    in_view: InView | None = Field(
        None,
        description="What was called of the lung that the scan shows. Null where the share of the lungs is given, or "
        "no lung is in view.",
    )
    suspicion: Suspicion | None = Field(
        None, description="How much it looks like COVID-19, not a diagnosis; null where no weights for that were given."
    )
    since: Since | None = Field(None, description="What has changed since the patient's last result.")
    lobes: Lobes | None = Field(None, description="Figures by lobe. Null where they were not asked for (--lobes).")
    hu_bands: HuBands = Field(description="Bands that split the opacity, Hounsfield units.")
    networks: NetworksUsed = Field(description="The networks that drew the masks.")
    run: Run = Field(description="How the result was computed. Differs from run to run.")

    @classmethod
    def parse(cls, content: bytes | str, name: str, *, exact: bool = False) -> Self:
        """As of any document; what `valid_for` denies has to be null besides."""
        report = super().parse(content, name, exact=exact)
        if denied := tuple(report._given_though_denied()):
            raise DamagedDocument(name, denied)
        return report

    def _given_though_denied(self) -> Iterator[str]:
        denied = [kind for kind, holds in self.valid_for if not holds]
        told = self.model_dump() if denied else {}
        for kind in denied:
            for path in withheld(kind):
                for place, value in _values(told, path):
                    if value is not None:
                        yield f"{place} is given, wanted null since valid_for.{kind} is false"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Of what this version writes: every key, and null for what `valid_for` denies."""
        made = super().json_schema()
        _require_all(made)
        defs = made.pop("$defs")
        return {**made, "allOf": [_denial(kind) for kind in VALID_FOR], "$defs": defs}


def withheld(kind: str) -> list[tuple[str, ...]]:
    """Paths of all that is null where `valid_for` denies a kind of figure; "*" stands for every item."""
    return [*withheld_figures(kind), *WITHHELD[kind], *WITHHELD_BY_LOBE[kind]]


def _values(told: Any, path: tuple[str, ...], place: str = "") -> Iterator[tuple[str, Any]]:
    """What lies at a path, with the place of each."""
    if not path or told is None:
        yield place.removeprefix("."), told
    elif path[0] != "*":
        yield from _values(told[path[0]], path[1:], f"{place}.{path[0]}")
    elif isinstance(told, dict):
        for name, one in told.items():
            yield from _values(one, path[1:], f"{place}.{name}")
    else:
        for index, one in enumerate(told):
            yield from _values(one, path[1:], f"{place}[{index}]")


def _denial(kind: str) -> dict[str, Any]:
    """If `valid_for` denies it, then null, as JSON Schema says that."""
    then: dict[str, Any] = {}
    for path in withheld(kind):
        here = then
        for step, key in enumerate(path):
            if key == "*":
                here = here.setdefault("items" if path[step - 1] == "largest" else "additionalProperties", {})
            else:
                here = here.setdefault("properties", {}).setdefault(key, {})
        here["type"] = "null"
    denied = {"properties": {"valid_for": {"properties": {kind: {"const": False}}}}}
    return {"$comment": "What valid_for denies is null.", "if": denied, "then": then}


def _require_all(schema: Any) -> None:
    """Every key is written: what may be absent is so only from reports of earlier versions."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema["required"] = list(schema["properties"])
            for one in schema["properties"].values():
                one.pop("default", None)
        for inner in schema.values():
            _require_all(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _require_all(inner)
