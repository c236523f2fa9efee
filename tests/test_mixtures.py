"""Any mixture of two series' files, on any nights: no result mixes them, and everyone is accounted for.

Headers only, as it is they that decide: thousands of mixtures in seconds.
"""

import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covct.dicom.header import Header, read_header
from covct.dicom.patient import PATIENT_TAGS, Patient, patient_of
from covct.disk import state
from covct.disk.outcome import Outcome, content_key, read_outcome
from covct.disk.sources import SourceFile
from covct.intake.discover import Discovery, Sighting, assemble
from covct.outputs import FORMATS, formats_for
from covct.unattended import one_pass
from covct.unattended.plan import Order, plan, superseded
from covct.unattended.whose import record

pytestmark = pytest.mark.slow

SLICES = 14


def naming(*values: str) -> Patient:
    return patient_of(dict(zip(PATIENT_TAGS, values, strict=False)).get)


JANE = naming("4711", "CITY", "Doe^Jane", "19500101", "F")
NAMINGS = {
    "another patient": naming("0815", "CITY", "Roe^John", "19660606", "M"),
    "another number": naming("0815"),
    "nothing in common": naming("0815", "LAKE"),
    "a sister": naming("", "", "Doe^Anna", "19520202", "F"),
    "a corrected name": naming(" 004711", "CITY", "SMITH^JANE", "19500101", "F"),
    "the same": JANE,
    "a copy without a name": Patient(),
    "a copy under a pseudonym": naming("SUBJECT-7", "", "SUBJECT-7"),
}
OTHERS = ("another patient", "another number", "nothing in common", "a sister")
COPIES = ("a copy without a name", "a copy under a pseudonym")


@dataclass(frozen=True)
class Mixture:
    """Two series: how the second differs from the first, and what is there of each (indices of slices, repeated)."""

    second: str
    same_study: bool
    same_series: bool
    same_instances: bool
    half_a_step: bool
    there: tuple[tuple[int, ...], tuple[int, ...]]
    seed: int


@st.composite
def mixtures(draw):
    second = draw(st.sampled_from(sorted(NAMINGS)))
    there = st.lists(st.integers(0, SLICES - 1), max_size=4, unique=True).map(lambda gone: {*range(SLICES)} - {*gone})
    return Mixture(
        second,
        draw(st.booleans()),
        draw(st.booleans()),
        second in COPIES or (second in OTHERS and draw(st.booleans())),
        second not in COPIES and draw(st.booleans()),
        (
            tuple([*draw(there), *draw(st.lists(st.integers(0, SLICES - 1), max_size=3))]),
            tuple([*draw(there), *draw(st.lists(st.integers(0, SLICES - 1), max_size=3))]),
        ),
        draw(st.integers(0, 99)),
    )


@pytest.fixture(scope="module")
def slices(phantom_series):
    paths = sorted(phantom_series.iterdir())[:SLICES]
    return [read_header(SourceFile(str(path))).instances[0] for path in paths]


def made(slices, mixture: Mixture) -> dict[SourceFile, Header]:
    """The headers of a mixture; folders `first` and `second` tell from which series a file is."""
    found = {}
    step = abs(slices[1].position[2] - slices[0].position[2])
    another_scan = mixture.second not in COPIES
    for which, there in enumerate(mixture.there):
        study = "1.2.1" if mixture.same_study or not which else "1.2.2"
        series = "1.3.1" if mixture.same_series or not which else "1.3.2"
        for number, index in enumerate(there):
            x, y, z = slices[index].position
            moved = bool(which) and another_scan
            instance = replace(
                slices[index],
                file=SourceFile(f"{('first', 'second')[which]}/{index}-{number}.dcm"),
                sop_instance_uid=f"1.4.{0 if mixture.same_instances else which}.{index}",
                position=(x + 3 * moved, y, z + step / 2 * (moved and mixture.half_a_step)),
                acquisition=1 + moved,
                patient=NAMINGS[mixture.second] if which else JANE,
            )
            found[instance.file] = Header(study, series, (instance,))
    return found


def order(out: Path) -> Order:
    return Order((), out, Path("weights"))


def jobs_of(headers: dict[SourceFile, Header], out: Path, seed: int = 0):
    files = sorted(headers)
    random.Random(seed).shuffle(files)
    return plan(order(out), Discovery(assemble(files, headers.__getitem__, Sighting()), (), 0), {})


def origins(series) -> set[str]:
    return {i.file.path.parent.name for i in series.instances}


def touched(series) -> set[str]:
    return origins(series) | {twin.path.parent.name for twin in series.twins}


@settings(max_examples=250, deadline=None)
@given(mixture=mixtures())
def test_no_mixture_of_two_series_gives_a_result_of_both_and_nobody_is_lost(mixture, slices):
    jobs = jobs_of(made(slices, mixture), Path("nowhere"), mixture.seed)
    accounted: set[str] = set()
    for job in jobs:
        if not job.refusal:
            assert len(origins(job.series)) == 1, "a result of one series"
        accounted |= touched(job.series)
        for other, _, _ in job.choice.left_out:
            if mixture.second not in OTHERS or origins(other) == origins(job.series):
                accounted |= touched(other)
    assert accounted == {"first", "second"}
    assert len({job.series.folder for job in jobs}) == len(jobs)
    assert jobs_of(made(slices, mixture), Path("nowhere"), mixture.seed + 1) == jobs, "in whatever order files are met"


def night(headers: dict[SourceFile, Header], out: Path) -> int:
    """What a pass leaves in the tree, had every series that is not refused lungs in it; how many series it did."""
    jobs = jobs_of(headers, out)
    state.withdraw(out, one_pass._outlived(order(out), jobs))
    to_do = [job for job in jobs if job.to_do]
    for job in to_do:
        status, slug = ("rejected", job.refusal[0]) if job.refusal else ("done", None)
        source = "+".join(sorted(origins(job.series)))
        whose = record(out, job.series)
        about = {"study_instance_uid": "1.2.1", "source": source, "patient": whose}
        content = content_key(job.series.content)
        formats = formats_for(job.series.kind, job.outputs.formats, job.series.can_be_referred_to)
        if status == "done":
            about["files"] = {file: "0" * 64 for name in formats for file in FORMATS[name].files}
            about["formats"] = {name: job.outputs.kind(name) for name in formats}
        outcome = Outcome(status=status, work_key=job.work_key, slug=slug, content=content, **about)
        stage = state.new_stage(out, job.work_key)
        for name in outcome.files:
            (stage / name).touch()
        state.commit(out, job.series.folder, stage, outcome, superseded(job.choice) if status == "done" else ())
    return len(to_do)


def results(out: Path) -> dict[str, str]:
    """By origin the folder of its result."""
    outcomes = {path.parent: read_outcome(path.parent) for path in out.glob("*/*/outcome.json")}
    return {o.source: str(folder.relative_to(out)) for folder, o in outcomes.items() if o.status == "done"}


@settings(max_examples=30, deadline=None)
@given(
    mixture=mixtures().filter(lambda mixture: mixture.second in OTHERS + COPIES),
    nights=st.lists(st.sampled_from([("first",), ("second",), ("first", "second")]), min_size=2, max_size=4),
)
def test_on_whatever_nights_they_come_nobody_takes_anothers_result(mixture, nights, slices):
    headers = made(slices, replace(mixture, there=(tuple(range(9)), tuple(range(SLICES)))))
    with tempfile.TemporaryDirectory() as folder:
        before: dict[str, str] = {}
        for come in nights:
            there = {file: header for file, header in headers.items() if file.path.parent.name in come}
            night(there, Path(folder))
            after = results(Path(folder))
            assert {origin: after.get(origin) for origin in before} == before
            assert night(there, Path(folder)) == 0, "a second look finds nothing to do"
            before = after
