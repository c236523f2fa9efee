"""One study's trouble is its own: whatever step breaks at it, the others are done, and the exit code tells."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from covct.errors import SeriesError, Stopped
from covct.intake import discover
from covct.results import entries as results
from covct.results import page, summary, verify
from covct.results.entries import read_tree
from covct.unattended import batch, index, movable, one_pass, one_series, plan
from covct.unattended import inbox as inboxes
from support.batches import Clock, run
from support.running import invoke, read_json

pytestmark = pytest.mark.slow

NAME = "Planted^Name"  # of an error: not in the line that raises it, as a traceback in the log shows that line
BAD = "1.2.2"  # the study that breaks each step


def planted(monkeypatch, module, name, is_bad):
    """Let a function break at one study."""
    whole = getattr(module, name)

    def breaking(*args, **options):
        if is_bad(*args):
            raise LookupError(NAME)
        return whole(*args, **options)

    monkeypatch.setattr(module, name, breaking)


def of_series(series, *_, **__):
    return series.study_uid == BAD


def of_files(*args):
    return any("/inbox/b/" in str(getattr(one, "path", "")) for one in args)


def of_slices(slices):
    return "/inbox/b/" in str(slices[0].file.path)


STEPS = {
    "indexing a file": (index, "read_facts", of_files),
    "taking scans apart": (discover, "split_scans", of_slices),
    "choosing": (plan, "choose", lambda wanted, check: of_series(wanted[0])),
    "checking headers": (plan, "check_headers", of_series),
    "finding what was done": (plan, "standing", lambda order, folder, key: folder.startswith(BAD)),
    "noting the attempt": (one_series, "begin_attempt", lambda out, folder, key: folder.startswith(BAD)),
    "committing": (one_series.state, "commit", lambda out, folder, *_: folder.startswith(BAD)),
    "going on with the next best": (one_pass, "follow", lambda order, job, *_: of_series(job.series)),
    "reading results": (results, "_from_outcome", lambda outcome, relative: relative.startswith(BAD)),
    "making the table": (summary, "_csv_row", lambda entry: entry.folder.startswith(BAD) and entry.seconds is not None),
    "making the page": (page, "tally", lambda done: any(entry.folder.startswith(BAD) for entry in done)),
}
OUTCOMES_ALL_THE_SAME = ("going on", "reading", "making")  # the result stood before the step broke


@pytest.mark.parametrize("step", [name for name in STEPS if name != "finding what was done"])
def test_a_scan_does_the_others(step, order, networks, monkeypatch, threshold_networks):
    planted(monkeypatch, *STEPS[step])
    result = invoke("scan", *order.sources, "-o", order.out, "--weights", order.weights, "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == (0 if step.startswith(("reading", "making")) else 3), result.stderr
    expected = 3 if step.startswith(OUTCOMES_ALL_THE_SAME) else 2
    assert told[-1]["event"] == "finished" and told[-1]["done"] == expected
    assert "Planted" not in result.output + result.stderr
    entries = {entry.folder.split("/")[0]: entry for entry in read_tree(order.out)}
    assert entries["1.2.1"].status == entries["1.2.3"].status == "done"
    assert (order.out / "summary.csv").read_text().count("\n") == 1 + len(entries)
    assert "Planted" not in (order.out / "index.html").read_text()
    if step.startswith(("choosing", "checking")):
        outcome = read_json(order.out / BAD / f"{BAD}.1" / "outcome.json")
        assert (outcome["status"], outcome["slug"]) == ("failed", "unexpected-error")
        assert outcome["message"].startswith("LookupError at test_troubles.py:")
    elif step.startswith(("reading", "making")):
        assert "damaged-result" in (order.out / "summary.csv").read_text()
    else:
        assert any(one["event"] == "problem" and one["slug"] == "unexpected-error" for one in told)


@pytest.mark.parametrize("step", ["indexing a file", "taking scans apart", "choosing", "committing"])
def test_watch_does_the_others_and_ends_with_3(step, order, networks, monkeypatch):
    planted(monkeypatch, *STEPS[step])
    clock, events = Clock([None] * 6), []

    def now():
        return datetime.now(UTC) + timedelta(seconds=clock.now)

    class Wall(datetime):
        @classmethod
        def now(cls, zone=None):
            return now()

    monkeypatch.setattr(one_pass, "datetime", Wall)
    until = replace(order, until=datetime.now(UTC) + timedelta(seconds=55))
    tally = batch.watch(until, lambda: networks, events.append, 5, 10, clock.sleep, lambda: clock.now)
    assert (tally["done"], bool(tally["failed"] + tally["troubled"])) == (2, True)
    told = [one for one in events if one["event"] == "problem"]
    assert len(told) == len({(one["file"], one["message"]) for one in told}), "said once"


def test_watch_waits_with_a_study_whose_state_cannot_be_told(order, networks, monkeypatch):
    planted(monkeypatch, inboxes, "_folders", lambda study: of_files(*study.files))
    clock, events = Clock([None] * 4), []
    for name in "abc":
        (order.sources[0] / name / "end").touch()
    marked = replace(order, marker="end")
    with pytest.raises(Stopped):
        batch.watch(marked, lambda: networks, events.append, 5, 10, clock.sleep, lambda: clock.now)
    assert sum(one["event"] == "done" for one in events) == 2
    [told] = [one for one in events if one["event"] == "problem"]
    assert (told["file"], told["slug"]) == (BAD, "unexpected-error")


@pytest.mark.parametrize("step", ["taking scans apart", "choosing", "checking headers"])
def test_a_dry_run_tells_of_all_and_ends_with_3(step, order, monkeypatch):
    planted(monkeypatch, *STEPS[step])
    result = invoke("scan", *order.sources, "-o", order.out, "--weights", order.weights, "--dry-run", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(row["verdict"] for row in rows) == ["fail", "segment", "segment"]
    assert result.exit_code == 3
    assert "Planted" not in result.output + result.stderr


def test_moving_done_studies_goes_on_with_the_next(order, networks, monkeypatch, tmp_path):
    planted(monkeypatch, movable, "move_study", lambda name, *_: name == BAD)
    tally, events = run(replace(order, move_done=tmp_path / "moved"), networks)
    assert (tally["done"], tally["troubled"]) == (3, 1)
    assert [one["file"] for one in events if one["event"] == "problem"] == [BAD]
    assert sorted(path.name for path in order.sources[0].iterdir()) == ["b"]


def lost_once(monkeypatch):
    """One slice of a study cannot be read for a moment, after it was listed."""
    whole, lost = index.Index.facts_of, []

    def facts_of(self, file):
        if "/inbox/b/" in str(file.path) and not lost:
            lost.append(file)
            raise SeriesError("unreadable", "the file cannot be read: Input/output error", file.label)
        return whole(self, file)

    monkeypatch.setattr(index.Index, "facts_of", facts_of)


@pytest.mark.parametrize("is_touched", [False, True], ids=["left as it is", "touched"])
def test_watch_moves_a_study_whose_trouble_is_over(is_touched, order, inbox, networks, monkeypatch, tmp_path):
    lost_once(monkeypatch)
    moving = replace(order, move_done=tmp_path / "moved", until=datetime.now(UTC) + timedelta(hours=1))
    touch = (lambda: os.utime(min((inbox / "b").iterdir()))) if is_touched else None
    clock, events = Clock([None] * 4 + [touch] + [None] * 6), []

    def sleep(seconds):
        try:
            clock.sleep(seconds)
        except Stopped:  # what comes of the exit code is to be seen
            monkeypatch.setattr(batch, "closed", lambda order, started: "until")

    tally = batch.watch(moving, lambda: networks, events.append, 25, 10, sleep, lambda: clock.now)
    assert read_json(order.out / BAD / f"{BAD}.1" / "report.json")["source"]["instances"] == 30
    assert not list(inbox.rglob("*.dcm"))
    assert tally["troubled"] == 1, "it is not forgotten in the exit code"


def test_a_study_that_broke_is_not_taken_for_finished(order, networks, monkeypatch):
    """The next version may be able to do it: nothing but a failure of its own outcome stands in the way."""
    with monkeypatch.context() as patch:
        planted(patch, *STEPS["taking scans apart"])
        run(order, networks)
    assert run(order, networks)[0]["done"] == 1


def test_a_failed_plan_takes_no_result_away(order, inbox, networks, monkeypatch):
    run(order, networks)
    before = (order.out / BAD / f"{BAD}.1" / "outcome.json").read_bytes()
    next(iter(inbox.joinpath("b").iterdir())).unlink()  # the study has changed
    planted(monkeypatch, *STEPS["choosing"])
    tally, events = run(order, networks)
    assert (tally["troubled"], tally["failed"]) == (1, 0)
    assert (order.out / BAD / f"{BAD}.1" / "outcome.json").read_bytes() == before
    [told] = [one for one in events if one["event"] == "problem"]
    assert told["message"].endswith("while planning; its earlier result stays")


def test_what_failed_in_planning_is_done_again_on_demand(order, networks, monkeypatch):
    with monkeypatch.context() as patch:
        planted(patch, *STEPS["choosing"])
        assert run(order, networks)[0]["failed"] == 1
        assert run(order, networks)[0]["failed before"] == 1
    assert run(replace(order, retry_failed=True), networks)[0]["done"] == 1


def test_verify_checks_the_others(order, networks, monkeypatch):
    run(order, networks)
    planted(monkeypatch, verify, "_look", lambda folder, *_: folder.parent.name == BAD)
    result = invoke("verify", order.out, "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(one["folder"], one["slug"]) for one in told[:-1]] == [(f"{BAD}/{BAD}.1", "not-checked")]
    assert (told[-1]["results"], result.exit_code) == (3, 3)
    assert "Planted" not in result.output + result.stderr
