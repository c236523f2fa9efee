"""One series, the steps in order, on one screen."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from covct.dicom.evidence import filled
from covct.errors import SeriesError
from covct.intake.choice import Choice, is_other_part
from covct.intake.discover import Series
from covct.intake.gate import (
    age_years,
    check_hounsfield,
    check_region,
    coverage,
    header_warnings,
    left_valid,
    refuse_warnings,
)
from covct.intake.gate_geometry import default_affine, nifti_geometry
from covct.intake.gate_rules import NOTED, TILTED_MASKS, Finding, ValidFor
from covct.intake.gate_voxels import judge_chest, measure_chest
from covct.intake.load_dicom import bytes_beside, hu_type, load_dicom, load_headers
from covct.intake.volume_file import declared_size, load_volume
from covct.networks.devices import TENSORFLOW, Device
from covct.networks.network import Network, Networks, field_of_view, holds_infection, probabilities
from covct.pipeline.aerated import complete_aerated
from covct.pipeline.burden import find_lesions, measure_burden, without_one_lung
from covct.pipeline.chest_wall import remove_chest_wall
from covct.pipeline.conformal import Stated
from covct.pipeline.likeness import Likeness, suspicion_of, unlike
from covct.pipeline.lobes import LoadLobes, by_lobe
from covct.pipeline.memory import BASE_MIB, at_hand_mib, needed_mib
from covct.pipeline.postprocess import (
    mark_infection,
    remove_enclosed_air,
    remove_outside_air,
    separate_lungs,
    to_source_lungs,
    unmark_specks,
)
from covct.pipeline.report import Measurements, build_report
from covct.pipeline.uncertainty import Tally, sides_in_view, tally_lungs, uncertainty
from covct.voxels.between import every, fill_between
from covct.voxels.labels import Labels, Layer, per_slice
from covct.voxels.preprocess import FieldOfView, to_model_space
from covct.voxels.volume import Masks, Probability, Scan, spacing_mm, voxel_volume_mm3

# Lungs are looked at in slices so far apart, where they lie closer; between two of them they are interpolated.
LUNGS_APART_MM = 2.0


@dataclass
class Clock:
    """Seconds by step, and a call at the beginning and at the end of each, the latter with its seconds; `progress` is
    told within a step how many slices are done, of how many."""

    announce: Callable[[str], None] = lambda step: None
    ended: Callable[[str, float], None] = lambda step, seconds: None
    progress: Callable[[int, int], None] = lambda done, of: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.announce(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + took, 3)
            self.ended(name, round(took, 3))


@dataclass(frozen=True)
class Result:
    """One segmented series; `stated` is as in `Uncertainty`."""

    series: Series
    scan: Scan
    masks: Masks
    report: dict[str, Any]
    work_key: str
    device: Device
    stated: dict[str, list[Stated]] = field(default_factory=dict)


def process(
    choice: Choice,
    load_networks: Callable[[], Networks],
    work_key: str,
    clock: Clock,
    strict: bool = False,
    memory_mib: float | None = None,
    runtime: str = TENSORFLOW,
) -> Result:
    """Read, segment and measure the chosen series: `load`, then `process_scan`."""
    return process_scan(choice, load(choice, clock, memory_mib, runtime), load_networks, work_key, clock, strict)


def load(
    choice: Choice,
    clock: Clock,
    memory_mib: float | None = None,
    runtime: str = TENSORFLOW,
    headers_only: bool = False,
) -> Scan:
    """Read the chosen series.

    Parameters
    ----------
    headers_only : bool
        Of a DICOM series: no pixel is decoded.
    memory_mib : float, optional
        Memory that may be used; default: all that the machine or the container has.
    runtime : str
        What will compute the networks, which take some of it: TensorFlow takes more.

    Raises
    ------
    SeriesError
        As `read`.
    """
    assert choice.chosen is not None
    with clock.step("load"):
        if headers_only and choice.chosen.kind == "dicom":
            return load_headers(choice.chosen)
        return read(choice.chosen, at_hand_mib() if memory_mib is None else memory_mib, runtime)


def process_scan(
    choice: Choice,
    scan: Scan,
    load_networks: Callable[[], Networks],
    work_key: str,
    clock: Clock,
    strict: bool = False,
    load_lobes: LoadLobes | None = None,
) -> Result:
    """Segment and measure the chosen series, which was read. The networks are asked for once its slices are checked.

    Parameters
    ----------
    strict : bool
        Warnings refuse the series: a SeriesError, as for all input that is not for us.
    load_lobes : function () -> (LobeCard, Atlas), optional
        Lungs are divided into lobes by this atlas.
    """
    series = choice.chosen
    assert series is not None
    with clock.step("check"):
        what = filled(scan.headers)
        age, findings = _check(series, scan, what)
    networks = load_networks()
    networks.begin()
    with clock.step("lungs"):
        lungs = _find_lungs(networks.lungs, scan, clock.progress)
        valid_for, findings = _judge(scan, lungs.labels.lungs, age, is_other_part(series), findings)
    with clock.step("infection"):
        infection = _find_infection(networks, scan, lungs.labels.lungs, clock.progress)
    with clock.step("postprocess"):
        _mark(lungs.labels, infection.probability, networks.infection.card.threshold, scan)
    with clock.step("measure"):
        measured, findings = _measure(scan, lungs, infection, networks, valid_for, findings, strict)
    looks = suspicion_of(networks.diagnosis, infection.likeness)
    lobes = None
    if load_lobes:
        with clock.step("lobes"):
            lobes, figures = by_lobe(*load_lobes(), lungs.labels, measured.burden, voxel_volume_mm3(scan.working))
            measured = replace(measured, lobes=figures)
    report = build_report(choice, scan, measured, findings, networks, work_key, what, infection.skipped, looks)
    masks = Masks(lungs.labels.lungs, lungs.labels.infection, lungs.probability, infection.probability, lobes)
    return Result(series, scan, masks, report, work_key, networks.used(), measured.sure.stated)


def segment(networks: Networks, scan: Scan) -> Labels:
    """The masks of a scan alone: the same steps, without what is checked before and measured after."""
    networks.begin()
    labels = _find_lungs(networks.lungs, scan).labels
    infection = _find_infection(networks, scan, labels.lungs)
    _mark(labels, infection.probability, networks.infection.card.threshold, scan)
    return labels


def _check(series: Series, scan: Scan, what: list[str]) -> tuple[float | None, list[Finding]]:
    """The patient's age, if it is known, and what its voxels and headers warn of; refuses what is no chest in HU."""
    hu = scan.working.array
    check_hounsfield(hu)
    age = age_of(scan)
    check_region(hu, spacing_mm(scan.working), is_other_part(series), age)
    _, findings = header_warnings(series)
    return age, [*findings, *_filled(what), *_nifti_findings(scan)]


@dataclass(frozen=True)
class _Lungs:
    """The lungs as found: labels on the source grid, the network's probability, and how its border hesitates."""

    labels: Labels
    probability: Probability
    tally: Tally


def _counting(looked_at: np.ndarray, tell: Callable[[int, int], None]) -> Callable[[np.ndarray], None]:
    """What is called with the indices of slices that are done: tells how many that makes, of all that are looked at."""
    done, of = 0, int(np.count_nonzero(looked_at))

    def counted(indices: np.ndarray) -> None:
        nonlocal done
        done += len(indices)
        tell(done, of)

    return counted


def _find_lungs(network: Network, scan: Scan, tell: Callable[[int, int], None] = lambda done, of: None) -> _Lungs:
    card, hu, spacing = network.card, scan.working.array, spacing_mm(scan.working)
    view = field_of_view(card, hu, spacing[1:])
    looked_at = np.ones(len(hu), bool) if card.patch else every(len(hu), spacing[0], LUNGS_APART_MM)
    counted = _counting(looked_at, tell)
    probability = probabilities(network, hu, view, looked_at, spacing, lambda indices, looks: counted(indices))
    fill_between(probability, looked_at)
    seen = to_model_space(hu, view, card.size, np.int16)
    remove_outside_air(probability, seen, card.threshold)
    complete_aerated(probability, seen, card.threshold)
    remove_enclosed_air(probability, seen, card.threshold)
    seen_spacing = _model_spacing(spacing, view, card.size)
    remove_chest_wall(probability, seen, card.threshold, seen_spacing)
    del seen
    sides = separate_lungs(probability, card.threshold, seen_spacing)
    labels = to_source_lungs(sides, probability, card.threshold, view, hu.shape[1:])
    return _Lungs(labels, Probability(probability, view), tally_lungs(sides, probability, card.threshold))


@dataclass(frozen=True)
class _Infection:
    """Infection as found: its probability, how much of it hesitates (of an ensemble also by network), slices with lung
    that were not looked at, and how the scan looks to the network: its `Likeness`."""

    probability: Probability
    tallies: list[Tally]
    skipped: int
    likeness: Likeness


def _find_infection(
    networks: Networks, scan: Scan, lungs: Layer, tell: Callable[[int, int], None] = lambda done, of: None
) -> _Infection:
    card, hu, spacing = networks.infection.card, scan.working.array, spacing_mm(scan.working)
    view = field_of_view(card, hu, spacing[1:], lungs)
    network, likeness = networks.infection, Likeness(networks.infection.learned)
    tallies = [Tally.empty(card.threshold) for _ in range(1 + (len(network.members) + 1 if network.members else 0))]

    def watch(indices: np.ndarray, looks: list[np.ndarray]) -> None:
        sides = sides_in_view((lungs[index] for index in indices.tolist()), view, card.size)
        for tally, own in zip(tallies, (looks, *network.by_member(looks)), strict=False):
            tally.add(own, sides)
        counted(indices)

    with_lung = per_slice(lungs) > 0
    looked_at = _not_empty(networks, hu, spacing, with_lung, lungs)
    counted = _counting(looked_at, tell)
    skipped = int(np.count_nonzero(with_lung & ~looked_at))
    probability = probabilities(network, hu, view, looked_at, spacing_mm=spacing, watch=watch, notice=likeness.notice)
    return _Infection(Probability(probability, view), tallies, skipped, likeness)


def _mark(labels: Labels, probability: Probability, threshold: float, scan: Scan) -> None:
    mark_infection(labels, probability.array, threshold, probability.view)
    unmark_specks(labels, spacing_mm(scan.working))


def _measure(
    scan: Scan,
    lungs: _Lungs,
    infection: _Infection,
    networks: Networks,
    valid_for: ValidFor,
    findings: list[Finding],
    strict: bool,
) -> tuple[Measurements, list[Finding]]:
    """What is measured, and all that is to be said of it by now; `strict` refuses what is warned of before that."""
    volume, labels = scan.working, lungs.labels
    burden, found = without_one_lung(
        measure_burden(volume.array, labels.lungs, labels.infection, voxel_volume_mm3(volume))
    )
    findings = [*findings, *found, *unlike(infection.likeness.apart)]
    if strict:
        refuse_warnings(findings)
    sure = uncertainty(burden, lungs.tally, infection.tallies, networks, infection.likeness.apart)
    lesions = find_lesions(labels.infection, labels.lungs, scan.working_affine)
    measured = Measurements(burden, sure, lesions, valid_for & left_valid(findings))
    return measured, [*findings, *measured.doubts()]


def _not_empty(
    networks: Networks, hu: np.ndarray, spacing: tuple[float, float, float], with_lung: np.ndarray, lungs: Layer
) -> np.ndarray:
    """Slices to look for infection in: those with lung, less those that the empty-slice network calls empty."""
    gate = networks.empty_slices
    if gate is None:
        return with_lung
    return holds_infection(gate, hu, field_of_view(gate.card, hu, spacing[1:], lungs), with_lung, spacing)


def read(series: Series, memory_mib: float, runtime: str = TENSORFLOW) -> Scan:
    """Load a series that fits into so much memory.

    Raises
    ------
    SeriesError
        `too-large`, before anything of it is in memory; and those of loading.
    """
    if (needed := counted_mib(series, runtime)) > memory_mib:
        extents = " x ".join(map(str, _extents(series)[0]))
        raise SeriesError(
            "too-large",
            f"{extents} voxels need {needed / 1024:.1f} GiB of memory; {memory_mib / 1024:.1f} GiB are at hand",
        )
    return load_dicom(series) if series.kind == "dicom" else load_volume(series)


def counted_mib(series: Series, runtime: str = TENSORFLOW) -> float:
    """What a scan of the series takes at its peak, MiB, by its headers and the sizes of its files."""
    extents, bytes_a_voxel = _extents(series)
    beside = bytes_beside(series) if series.kind == "dicom" else 0
    return needed_mib(*extents, bytes_a_voxel, beside, runtime)


def fit_together(series: Series, other: Series, memory_mib: float | None = None, runtime: str = TENSORFLOW) -> bool:
    """Whether two series may be in memory at once, by their headers; not where a file does not say."""
    try:
        needed = counted_mib(series, runtime) + counted_mib(other, runtime) - BASE_MIB[runtime]
    except (SeriesError, OSError):
        return False
    return needed <= (at_hand_mib() if memory_mib is None else memory_mib)


def _extents(series: Series) -> tuple[tuple[int, int, int], float]:
    """Slices, rows and columns; bytes a voxel takes while they are read."""
    if series.kind == "dicom":
        return (len(series.instances), *series.instances[0].shape), np.dtype(hu_type(series.instances)).itemsize
    return declared_size(series)


def _judge(
    scan: Scan, lungs: Layer, age: float | None, other_part: bool, known: list[Finding]
) -> tuple[ValidFor, list[Finding]]:
    """Whether these are whole lungs, and a person's; what is found is added to what is `known`.

    What is known of the affine explains what cannot be.
    """
    hu, spacing = scan.working.array, spacing_mm(scan.working)
    try:
        valid, found = coverage(lungs, spacing, other_part, age)
        return valid, [*known, *found, *judge_chest(measure_chest(hu, lungs, spacing), age, other_part)]
    except SeriesError as error:
        reasons = "".join(f"; {finding.message}" for finding in known if finding.slug == "default-affine")
        raise SeriesError(error.slug, error.message + reasons) from error


def _model_spacing(spacing: tuple[float, float, float], view: FieldOfView, size: int) -> tuple[float, float, float]:
    return spacing[0], spacing[1] * view.height / size, spacing[2] * view.width / size


def _filled(what: list[str]) -> list[Finding]:
    return [Finding("filled-headers", "; ".join(what), NOTED)] if what else []


def age_of(scan: Scan) -> float | None:
    """The patient's age in years; None where the headers do not say it, as a volume file's."""
    return age_years(scan.headers[0].get("PatientAge")) if scan.headers else None


def _nifti_findings(scan: Scan) -> list[Finding]:
    """A volume file's geometry is seen when it is read; a DICOM series' stands among the findings of its headers."""
    if scan.headers:
        return []
    found = [*default_affine(scan.volume.affine), *nifti_geometry(scan.working.affine, scan.working.shape)]
    if scan.tilted_affine is not None:
        message = f"the slices are tilted by {scan.tilt_degrees:.1f}°: {TILTED_MASKS}"
        found.append(Finding("gantry-tilt", message))
    return found


def peak_memory_mib() -> float:
    """The process's peak resident memory so far, MiB (Linux counts in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
