"""The report of one result: valid, of its outcome, and without figures that cannot be true together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from covct.disk.documents import DamagedDocument
from covct.disk.outcome import Outcome
from covct.disk.places import REPORT_NAME
from covct.pipeline.burden import LARGEST_LESIONS, severity
from covct.pipeline.report_document import Geometry, Lesions, Report
from covct.pipeline.report_figures import Interval, Measured, Region, Regions
from covct.pipeline.report_since import Between, Comparison
from covct.pipeline.report_uncertainty import Uncertainty
from covct.pipeline.uncertainty import classes
from covct.results.check_lobes import lobes_contradict
from covct.results.defects import Defect
from covct.terms import FIGURES, HU_AROUND, HU_BANDS, SEVERITY, Figure

ROUNDED_ML, ROUNDED_PERCENT = 0.0005, 0.005  # the report's last digit, halved


def check_report(folder: Path, outcome: Outcome) -> tuple[list[Defect], Report | None]:
    """Defects, and the report where it is valid enough to compare with."""
    try:
        report = Report.read(folder / REPORT_NAME, exact=True)
    except OSError as error:
        return [Defect("report-invalid", f"it cannot be read ({error.strerror})", REPORT_NAME)], None
    except DamagedDocument as damage:
        more = f", and {len(damage.faults) - 3} more" * (len(damage.faults) > 3)
        return [Defect("report-invalid", "; ".join(damage.faults[:3]) + more, REPORT_NAME)], None
    defects = [Defect("report-contradicts-itself", message, REPORT_NAME) for message in contradictions(report)]
    source = report.source
    told = (report.work_key, source.study_instance_uid or "", source.series_instance_uid or "")
    if told != (outcome.work_key, outcome.study_instance_uid, outcome.series_instance_uid):
        defects.append(Defect("wrong-identity", "work key, study or series is not the outcome's", REPORT_NAME))
    return defects, report


def contradictions(report: Report) -> Iterator[str]:
    """What of a report's figures cannot be true together, rounding allowed for."""
    regions = report.regions
    for name, region in regions.items():
        yield from _within(name, region)
    for figure in FIGURES:
        parts = [side.figure(figure.name) for side in (regions.right_lung, regions.left_lung)]
        whole = regions.lungs.figure(figure.name)
        yield from _of_parts(f"lungs {figure.name}, right and left", figure, parts, whole)
    if report.thirds is not None:  # earlier reports divided each region by its own height
        yield from _sides_of_thirds(regions)
    percent = regions.lungs.figure("infection_percent")
    near = [None] if percent is None else [max(percent - ROUNDED_PERCENT, 0.0), percent + ROUNDED_PERCENT]
    if report.severity.class_ not in {severity(one)[0] for one in near}:
        yield f"severity class {report.severity.class_} with {percent} % opacity"
    if report.uncertainty is not None:
        yield from _intervals(regions, report.uncertainty)
    yield from _lesions(report.lesions, regions.lungs.figure("infection_ml"))
    yield from _voxel(report.geometry)
    if report.lobes is not None:
        yield from lobes_contradict(report.lobes, regions)
    if report.since is not None and report.since.comparison is not None:
        yield from _since(report.since.comparison, report)


def _since(change: Comparison, report: Report) -> Iterator[str]:
    """What is compared is this report's, and the difference that of both."""
    for name in ("infection_percent", "infection_ml", "volume_ml"):
        between: Between = getattr(change, name)
        now = report.regions.lungs.figure(name)
        if between.now != now:
            yield f"since: {name} is {between.now} now, the report says {now}"
        then, difference = between.then, between.difference
        if then is None or now is None or difference is None:
            continue
        if abs(now - then - difference) > ROUNDED_PERCENT:
            yield f"since: {name} was {then} and is {now}, which do not differ by {difference}"
    if change.severity_class.now != report.severity.class_:
        yield f"since: severity class {change.severity_class.now} now, the report says {report.severity.class_}"


def _voxel(geometry: Geometry) -> Iterator[str]:
    edges = (geometry.slice_spacing_mm, geometry.row_spacing_mm, geometry.column_spacing_mm)
    spacings, volume = [edge for edge in edges if edge is not None], geometry.voxel_volume_mm3
    if volume is None or len(spacings) < len(edges):
        return
    product = math.prod(spacings)
    rounded = product * sum(5e-5 / spacing for spacing in spacings)
    if abs(product - volume) > rounded + 1e-6:
        yield f"a voxel has {volume} mm³, its edges make {product:.6f}"


def _within(name: str, region: Region) -> Iterator[str]:
    """The same of one region: its shares, its thirds, its bands."""
    thirds = region.thirds.items()
    parts: list[tuple[str, Measured]] = [(name, region), *((f"{name} {third}", one) for third, one in thirds)]
    for part, measured in parts:
        yield from _share(part, measured)
    for figure in FIGURES:
        if figure.in_thirds:
            given = [third.figure(figure.name) for _, third in thirds]
            yield from _of_parts(f"{name} {figure.name}, its thirds", figure, given, region.figure(figure.name))
    yield from _bands(name, region)


def _sides_of_thirds(regions: Regions) -> Iterator[str]:
    """The same third of right and left makes that of both."""
    for third, whole in regions.lungs.thirds.items():
        sides = [dict(side.thirds.items())[third] for side in (regions.right_lung, regions.left_lung)]
        for figure in FIGURES:
            if figure.in_thirds:
                parts = [side.figure(figure.name) for side in sides]
                told = f"lungs {figure.name}, right and left {third} third"
                yield from _of_parts(told, figure, parts, whole.figure(figure.name))


def _bands(name: str, region: Region) -> Iterator[str]:
    """Bands, and what lies in none, make up the opacity. Earlier reports do not say what lies in none."""
    within, around = ([region.figure(f"{band}_ml") for band in bands] for bands in (HU_BANDS, HU_AROUND))
    infection, bands = region.figure("infection_ml"), sum(value for value in within + around if value is not None)
    rounded = (1 + len(within) + len(around)) * ROUNDED_ML + 1e-9
    if infection is None or None in within:
        return
    if bands > infection + rounded:
        yield f"{name}: ground glass, consolidation and what lies in neither are more than the opacity"
    elif None not in around and bands < infection - rounded:
        yield f"{name}: ground glass, consolidation and what lies in neither are less than the opacity"


def _intervals(regions: Regions, sure: Uncertainty) -> Iterator[str]:
    """Every interval holds its figure, and is there where it is promised; the classes are those of its ends."""
    for name, region in regions.items():
        for figure in (one.name for one in FIGURES if one.interval):
            value, interval = region.figure(figure), region.interval(figure)
            promised = value is not None and _promised(name, figure, sure)
            if value is None or interval is None:
                if promised or interval is not None:
                    yield f"{name}: {figure} is {value}, its interval {interval}"
            elif not promised:
                yield f"{name}: {figure} has an interval {interval}, and nothing says what it is worth"
            elif not interval[0] - ROUNDED_PERCENT <= value <= interval[1] + ROUNDED_PERCENT:
                yield f"{name}: {figure} is {value}, outside its interval {interval}"
    interval = regions.lungs.interval("infection_percent")
    reached = (None, None) if interval is None else classes(interval)
    if (sure.lowest_class, sure.highest_class) != reached and not _at_an_edge(interval):
        yield f"classes {sure.lowest_class} to {sure.highest_class} with an interval of {interval} %"


def _promised(region: str, figure: str, sure: Uncertainty) -> bool:
    """Earlier reports promised an interval for every figure."""
    return sure.figures is None or (region == "lungs" and sure.figures.named(figure).level is not None)


def _at_an_edge(interval: Interval | None) -> bool:
    """Whether rounding may have moved an end into another class."""
    starts = [start for _, start, _ in SEVERITY]
    return interval is not None and any(abs(end - start) <= ROUNDED_PERCENT for end in interval for start in starts)


def _share(name: str, measured: Measured) -> Iterator[str]:
    volume, infection, percent = map(measured.figure, ("volume_ml", "infection_ml", "infection_percent"))
    if volume is None or infection is None:
        return
    if infection > volume + 2 * ROUNDED_ML:
        yield f"{name}: {infection} mL of opacity in {volume} mL"
    elif percent is not None and volume:
        rounded = 100 * ROUNDED_ML * (1 + infection / volume) / volume + ROUNDED_PERCENT
        if abs(percent - 100 * infection / volume) > rounded + 1e-9:
            yield f"{name}: {infection} of {volume} mL is {100 * infection / volume:.2f} %, the report says {percent}"


def _of_parts(name: str, figure: Figure, parts: list[float | None], whole: float | None) -> Iterator[str]:
    """Whether a figure follows from those of its parts as its row says; unknown parts contradict nothing."""
    given = [part for part in parts if part is not None]
    if whole is None or len(given) < len(parts):
        return
    rounded = 0.5 * 10**-figure.digits
    if figure.both == "sum":
        if abs(sum(given) - whole) > (len(given) + 1) * rounded + 1e-9:
            yield f"{name}: {' + '.join(f'{part:g}' for part in given)} is not {whole:g}"
    elif not min(given) - 2 * rounded - 1e-9 <= whole <= max(given) + 2 * rounded + 1e-9:
        yield f"{name}: {whole:g} does not lie between {min(given):g} and {max(given):g}"


def _lesions(lesions: Lesions, infection_ml: float | None) -> Iterator[str]:
    if len(lesions.largest) != min(lesions.count, LARGEST_LESIONS):
        yield f"{len(lesions.largest)} lesions listed of {lesions.count}"
    volumes = [lesion.volume_ml for lesion in lesions.largest if lesion.volume_ml is not None]
    if volumes != sorted(volumes, reverse=True):
        yield "the largest lesion does not come first"
    if infection_ml is not None and sum(volumes) > infection_ml + (len(volumes) + 1) * ROUNDED_ML + 1e-9:
        yield f"lesions have {sum(volumes):g} mL, the opacity {infection_ml:g}"
