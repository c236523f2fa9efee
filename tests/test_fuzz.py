"""Damaged input by the thousand, reproducible by number. More: COVCT_FUZZ_CASES, or `tests/fuzz.py --cases 50000`."""

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import covct
import fuzz
from support import mutators

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("COVCT_FUZZ_CASES", "1000"))
SEED = 113  # of those up to 150 the one whose cases are soonest of every kind, after 894
FAMILIES = (
    mutators.ANY, mutators.DICOM, mutators.CODESTREAM, mutators.GROUPS, mutators.DEFLATE, mutators.ZIP, mutators.NIFTI,
    mutators.GZIP, mutators.JSON,
)  # fmt: skip
KINDS = {name: mutator for family in FAMILIES for name, mutator in family.items()}


def test_damaged_instances_do_no_harm():
    """No traceback, no crash, no hang, no more memory than honest files take; refused where they must be, with reason.

    That many still load, and many are refused, shows that the damage goes deep and is not all of one kind.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(covct.__file__).parents[1])}
    run = subprocess.run(
        [sys.executable, fuzz.__file__, "--cases", str(CASES), "--seed", str(SEED)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    said = re.search(r"(\d+) cases with (\d+) damaged instances", run.stdout)
    assert said
    assert int(said[1]) == CASES
    assert int(said[2]) >= CASES * 6 // 5
    missed = [name for name in KINDS if not re.search(rf"[ ,]{name} \d", run.stdout)]
    assert not missed
    counts = dict(re.findall(r"(loaded|refused unreadable|problem unreadable|done) (\d+)", run.stdout))
    assert int(counts["loaded"]) > CASES // 10
    assert int(counts["refused unreadable"]) + int(counts["problem unreadable"]) > CASES // 10
    assert int(counts["done"]) > 0


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return fuzz.make_bases(tmp_path_factory.mktemp("bases"))


def test_every_kind_of_damage_damages_something_and_always_the_same(bases):
    contents = {**{name: base.contents[0] for name, base in bases.items()}, "json": b'{"a": 1, "b": "x"}'}
    for name, mutator in KINDS.items():
        suited = [c for b, c in contents.items() if b == "json" or name in bases[b].kinds]
        hurt = [[mutator(one, Random(seed)) for seed in range(3)] for one in suited]
        assert [outs[0] for outs in hurt] == [mutator(one, Random(0)) for one in suited], name
        assert any(out != one for one, outs in zip(suited, hurt, strict=True) for out in outs), name


@pytest.mark.parametrize("name", KINDS)
def test_damage_bears_what_other_damage_has_left(name, bases):
    rng = Random(name)
    whole = [base.contents[0][:20_000] for base in bases.values()]
    for contents in [b"", b"\0", b"DICM", rng.randbytes(1000), *(mutators.move_bytes(one, rng) for one in whole)]:
        assert isinstance(KINDS[name](contents, rng), bytes)


def test_a_case_that_kills_its_process_is_named_and_the_rest_goes_on(bases, tmp_path, monkeypatch):
    """A decoder's segfault is a defect like any other, and belongs to a case."""

    def judge(number, bench):
        if number == 7:
            os.abort()
        case = fuzz.make_case(number, bench)
        return fuzz.Record(number, case.base.name, case.kinds, case.place)

    monkeypatch.setattr(fuzz, "judge", judge)
    bench = fuzz.Bench(tmp_path, bases, [bases["nifti"]])
    records = list(fuzz.run(range(20), bench, 2))
    assert sorted(record.number for record in records) == list(range(20))
    [killed] = [record for record in records if record.defect]
    assert killed.number == 7
    assert killed.defect.startswith("died (-6)")
    text, defects = fuzz.report(records, 1.0)
    assert defects == 1
    assert "case 7 (" in text


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: fuzz._not_starved(MemoryError("30 GiB")), "memory ran out: 30 GiB"),
        (lambda *_: (["loaded"], len(bytearray(b"x") * (200 << 20))), r"memory: (19|20|21)\d MiB"),
    ],
    ids=["exception", "memory error", "memory"],
)
def test_harm_is_seen(harm, named, bases, tmp_path, monkeypatch):
    """A judge that sees nothing would pass everything. Other threads of the process make the kernel's figure uneven."""
    monkeypatch.setattr(fuzz, "run_case", harm)
    bench = fuzz.Bench(tmp_path, {"explicit": bases["explicit"]}, [bases["nifti"]])
    number = next(n for n in range(100) if fuzz.make_case(n, bench).place == "file")
    bench.honest["explicit file"] = {"rss": 1 << 20, "traced": 1 << 20}
    found = fuzz.judge(number, bench).defect
    assert re.match(named, found), found
