"""Many workers on one output tree: the same tree as one process makes, whoever dies or hangs meanwhile."""

import asyncio
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from covct import __version__, errors
from covct.disk import state
from covct.disk.attempts import begin_attempt
from covct.intake.discover import discover
from covct.intake.nifti import write_nifti
from covct.networks.devices import OPENVINO, parse_wish
from covct.outputs import Outputs
from covct.phantom.chest import make_phantom
from covct.unattended import batch, one_series, supervisor
from covct.unattended.heartbeat import Doing
from covct.unattended.job_events import job_event
from covct.unattended.live import Live
from covct.unattended.plan import plan
from covct.workers import at_work, crew, joining, places, shares, side_by_side
from covct.workers.parcel import DiskFailed, Errand, Unfit
from covct.workers.side_by_side import Team
from support import teams
from support.batches import well_told
from support.chests import SMALL
from support.processes import child_of
from support.running import read_json
from support.series import change

FORMATS = Outputs(("seg",))


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """Where a worker says that it stays; removed before each test."""
    path = tmp_path_factory.mktemp("held") / "worker"
    os.environ["COVCT_HELD"] = str(path)
    yield path
    del os.environ["COVCT_HELD"]


@pytest.fixture(scope="module")
def two(held):
    """Two workers on this machine."""
    one = crew.Crew([shares.Share(1, 4096.0)] * 2)
    yield one
    one.close()


@pytest.fixture
def studies(inbox):
    """A patient examined twice, another one, a series that is not for us, and a volume file."""
    shutil.copytree(inbox / "c", inbox / "d")
    someone = {"PatientID": "Q7734", "PatientName": "Doe^Jane", "PatientBirthDate": "19600101"}
    change(inbox / "a", **someone)
    change(inbox / "b", **someone, StudyDate="20300101")
    change(inbox / "c", PatientID="another")
    change(inbox / "d", Modality="MR", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1",
           SOPInstanceUID=lambda i: f"1.2.4.1.{i + 1}")  # fmt: skip
    write_nifti(make_phantom(**{**SMALL, "slices": 20}, lesions="moderate", seed=1).volume, inbox / "volume.nii.gz")
    return inbox


@pytest.fixture
def order(studies, tmp_path, weights):
    return batch.Order((studies,), tmp_path / "out", weights, FORMATS)


@pytest.fixture
def alone(order, tmp_path, monkeypatch):
    """The tree of a single process."""
    monkeypatch.setattr(one_series, "now", lambda: teams.MOMENT)
    monkeypatch.setattr(one_series, "installation", lambda out: "one")
    batch.scan(replace(order, out=tmp_path / "alone"), teams.make_networks, lambda event: None)
    return told_by(tmp_path / "alone")


def told_by(out):
    """Every file of every result; of outcome and report what is no moment, and no digest under the tree's key."""
    told = {}
    for path in out.glob("[!.]*/*/*"):
        name = str(path.relative_to(out))
        if path.name == "outcome.json":
            outcome = read_json(path)
            told[name] = {key: outcome[key] for key in ("status", "slug", "message", "work_key", "slices", "formats")}
            told[name]["files"] = sorted(outcome["files"])
        elif path.name == "report.json":
            told[name] = {key: value for key, value in read_json(path).items() if key != "run"}
        else:
            told[name] = path.read_bytes()
    return told


def scan(two, order, load, timeout_s=60.0):
    """How a pass of both workers ended, and its events."""
    events, team = [], Team(two, load, timeout_s, places.Places(two.is_local))
    tally = batch.scan(order, None, events.append, team.hands)
    assert not list((order.out / ".covct" / "attempts").glob("*")), "no attempt is left open"
    return tally, well_told(events)


def test_two_workers_make_the_tree_of_one_process(two, order, alone):
    """With a study compared with the one before it, whichever worker has which."""
    tally, events = scan(two, order, teams.at_one_moment)
    assert told_by(order.out) == alone
    assert (tally["done"], tally["rejected"]) == (4, 1)
    [report] = [told for name, told in alone.items() if name.startswith("1.2.2/") and name.endswith("report.json")]
    assert report["since"]["comparison"]["prior"]["study_instance_uid"] == "1.2.1"
    for folder in ("1.2.1/1.2.1.1", "1.2.3/1.2.3.1"):
        kinds = [event["event"] for event in events if event.get("folder") == folder]
        assert (kinds[0], kinds[-1], "step" in kinds) == ("started", "done", True)
    assert scan(two, order, teams.at_one_moment)[0]["done before"] == 4, "a rerun has nothing to do"


def test_a_worker_that_is_killed_costs_an_attempt_and_nothing_else(two, order, alone, held):
    held.unlink(missing_ok=True)
    killer = threading.Thread(target=kill_who_is_held, args=(held,))
    killer.start()
    tally, _ = scan(two, order, teams.held_up)
    killer.join()
    assert (tally["done"], tally["failed"]) == (4, 0)
    assert told_by(order.out) == alone


def test_a_scheduler_that_says_nothing_is_gone(two, monkeypatch):
    """Paused, it takes connections, and never answers."""

    async def never():
        await asyncio.sleep(60)

    two.open()
    monkeypatch.setattr(two._client.scheduler, "identity", never, raising=False)
    monkeypatch.setattr(crew, "ANSWER_S", 0.2)
    with pytest.raises(OSError, match="has not answered for 0.2 s"):
        two.workers()


def kill_who_is_held(held):
    while not (held.exists() and held.read_text()):
        time.sleep(0.05)
    os.kill(int(held.read_text()), signal.SIGKILL)


def test_a_coordinator_that_is_killed_leaves_what_a_rerun_ends(two, order, alone, tmp_path):
    """Its workers end with it; what was finished stays, what was not begun cost no attempt."""
    program = tmp_path / "covct_of_thresholds.py"
    program.write_text(
        "from covct import cli\nfrom covct.commands import scan\nfrom support import teams\n"
        "if __name__ == '__main__':\n    scan.networks_of = lambda *_: teams.at_one_moment\n    cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, program, "scan", order.sources[0], "-o", order.out, "--weights", order.weights, "--formats",
         "seg", "--workers", "2", "--json"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    while json.loads(process.stdout.readline())["event"] != "done":
        pass
    workers = below(child_of(process))
    process.kill()
    process.wait()
    assert len(workers) >= 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{one}/cmdline").exists() for one in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [one for one in workers if Path(f"/proc/{one}/cmdline").exists()]
    tally, _ = scan(two, order, teams.at_one_moment)
    assert tally["done"] + tally["done before"] == 4
    assert told_by(order.out) == alone


def below(process):
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(one) for thread in threads for one in thread.read_text().split()]


# Without processes


class Stand:
    """Workers that are functions, so that each mishap happens when it should; `mishaps` come one for each series sent.

    A mishap is a function (crew, token, worker, parcel), in place of the work.
    """

    is_local, is_open, address, topic = True, True, "", ""

    def __init__(self, *mishaps):
        self.heard, self.mishaps, self.there, self.ended = SimpleQueue(), list(mishaps), ["a", "b"], []

    def open(self):
        self.is_open = True

    def close(self):
        self.is_open = False

    def workers(self):
        if not self.is_open:
            raise ConnectionError
        return {name: {"resources": {}, "memory_limit": 0} for name in self.there}

    def end(self, worker):
        self.ended.append(worker)
        self.there = [*(name for name in self.there if name != worker), f"{worker} again"]

    def submit(self, function, token, worker, version, packed):
        if self.mishaps and (mishap := self.mishaps.pop(0)):
            mishap(self, token, worker, pickle.loads(packed))
            return
        self.heard.put((crew.ANSWERED, token, pickle.dumps(at_work._answer(version, packed, lambda event: None))))


def answers(answer):
    def mishap(stand, token, worker, parcel):
        state.claim(parcel.offer)
        stand.heard.put((crew.ANSWERED, token, pickle.dumps(answer)))

    return mishap


def hangs(stand, token, worker, parcel):
    state.claim(parcel.offer)
    step = job_event("step", parcel.job, step="lungs")
    stand.heard.put((crew.TOLD, token, [{"event": "claimed"}, step]))


def dies(stand, token, worker, parcel):
    """When it had done all; its answer comes late."""
    answer = at_work._answer(__version__, pickle.dumps(parcel), lambda event: None)
    stand.end(worker)
    stand.heard.put((crew.ENDED, token, "KilledWorker"))
    stand.heard.put((crew.ANSWERED, token, pickle.dumps(answer)))


def waits_for_files(stand, token, worker, parcel):
    """It took the series up, and a share does not answer; of the series nothing is begun."""
    stand.heard.put((crew.TOLD, token, [{"event": at_work.TAKEN_UP}]))


def loads_for_ever(stand, token, worker, parcel):
    state.claim(parcel.offer)
    step = job_event("step", parcel.job, step="networks")
    stand.heard.put((crew.TOLD, token, [{"event": at_work.TAKEN_UP}, {"event": "claimed"}, step]))


def loses_the_scheduler(stand, token, worker, parcel):
    state.claim(parcel.offer)
    stand.close()


@pytest.fixture
def small(inbox, tmp_path, weights, monkeypatch):
    """Three studies of three patients, in this process."""
    monkeypatch.setattr(side_by_side, "LOOK_S", 0.0)
    monkeypatch.setattr(side_by_side.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(at_work, "install", lambda handler: None)
    for name in "abc":
        change(inbox / name, PatientID=name)
    return batch.Order((inbox,), tmp_path / "out", weights, Outputs(()))


def failed(events):
    return [event["slug"] for event in events if event["event"] == "failed"]


def test_a_series_that_hangs_fails_and_the_others_are_done(small):
    stand = Stand(hangs)
    tally, events = scan(stand, small, teams.make_networks, timeout_s=0.5)
    assert (tally["done"], failed(events), stand.ended) == (2, ["timeout"], ["a"])


def test_a_series_whose_workers_die_three_times_is_given_up(small):
    one = replace(small, sources=(small.sources[0] / "a",))
    tally, events = scan(Stand(dies, dies), one, teams.make_networks)
    assert tally["done"] == 1
    tally, events = scan(Stand(dies, dies, dies), replace(one, force=True), teams.make_networks)
    assert failed(events) == ["crashed-repeatedly"]


@pytest.mark.parametrize("mishap", [waits_for_files, loads_for_ever])
def test_what_never_begins_is_held_against_no_series(mishap, small, monkeypatch):
    """Weights or a share that do not answer: the worker is killed, and after four in a row the run ends."""
    monkeypatch.setattr(supervisor, "LONGEST_LOADING_S", 0.1)
    one = replace(small, sources=(small.sources[0] / "a",))
    stand = Stand(*[mishap] * 3)
    assert scan(stand, one, teams.make_networks)[0]["done"] == 1
    assert len(stand.ended) == 3
    with pytest.raises(errors.WorkersLost, match="4 workers in a row did not read files or load networks in time"):
        scan(Stand(*[mishap] * 4), replace(one, force=True), teams.make_networks)


def stops(stand, token, worker, parcel):
    raise KeyboardInterrupt


def test_a_stop_forgives_a_series_once(small):
    """Its offer goes too: the crash of an attempt before counts still when the next run has cleared up."""
    jobs = plan(small, discover(small.sources), at_work.card_hashes(small.weights))
    for job in jobs:
        begin_attempt(small.out, job.series.folder, job.work_key)
    team = Team(Stand(stops), teams.make_networks, 60.0, places.Places(local=True))
    with pytest.raises(KeyboardInterrupt):
        batch.scan(small, None, lambda event: None, team.hands)
    state.recover(small.out)
    assert [begin_attempt(small.out, job.series.folder, job.work_key).attempts for job in jobs] == [2, 2, 2]


def test_a_scheduler_that_is_lost_is_held_against_no_series(small):
    stand = Stand(*[loses_the_scheduler] * 5)
    assert scan(stand, small, teams.make_networks)[0]["done"] == 3


def test_a_worker_that_is_not_fit_gets_no_more_and_the_last_one_s_reason_ends_the_run(small):
    unfit = answers(Unfit("the weights are others", "WeightsError"))
    assert scan(Stand(unfit), small, teams.make_networks)[0]["done"] == 3
    with pytest.raises(errors.WeightsError, match="no worker can be used; b: the weights are others"):
        scan(Stand(unfit, unfit, unfit), replace(small, force=True), teams.make_networks)
    assert not list((small.out / ".covct" / "attempts").glob("*")), "no series' fault"


def test_a_disk_costs_an_attempt_and_a_full_one_ends_the_run(small):
    assert scan(Stand(answers(DiskFailed(errno.EIO, "I/O error"))), small, teams.make_networks)[0]["done"] == 3
    with pytest.raises(errors.OutputNotWritable, match="No space left"):
        scan(Stand(answers(DiskFailed(errno.ENOSPC, "No space left"))), replace(small, force=True), teams.make_networks)


def test_no_more_series_are_begun_than_the_limit(small):
    assert scan(Stand(), replace(small, limit=2), teams.make_networks)[0]["done"] == 2


def test_a_stage_is_claimed_once_and_not_after_it_was_taken_back(tmp_path):
    offer = state.offer_stage(tmp_path, "k" * 64)
    assert state.claim(offer) == state.claimed(offer)
    with pytest.raises(FileExistsError):
        state.claim(offer)
    assert not state.take_back(offer), "it was begun"
    with pytest.raises(FileNotFoundError):
        state.claim(offer)
    assert state.take_back(state.offer_stage(tmp_path, "k" * 64))


@pytest.mark.parametrize(("begun", "attempts"), [(False, 1), (True, 2)])
def test_a_series_that_no_worker_had_begun_keeps_its_attempts(begun, attempts, tmp_path):
    """When the coordinator is killed, twice as many series are handed out as there are workers."""
    begin_attempt(tmp_path, "1.2/1.2.3", "k" * 64)
    if begun:
        state.claim(state.offer_stage(tmp_path, "k" * 64))
    else:
        state.offer_stage(tmp_path, "k" * 64)
    state.recover(tmp_path)
    assert begin_attempt(tmp_path, "1.2/1.2.3", "k" * 64).attempts == attempts


def job(study, patient, mib=1.0):
    series = SimpleNamespace(study_folder=study, kind="dicom", patient=SimpleNamespace(id=patient))
    return SimpleNamespace(series=series, mib=mib)


def flight(of, worker="a", alone=False):
    return places.Flight(of, None, worker, Path("/nowhere"), SimpleNamespace(folder="is begun"), alone)


def test_what_a_result_depends_on_is_done_before_it():
    """A patient's next study waits for the one before, a study's next series too; others do not."""
    jobs = deque([job("1", "P"), job("2", "P"), job("1", ""), job("3", "Q"), job("4", "")])
    lanes = places.Lanes()
    assert lanes.next_free(jobs, []) == 0
    first = [flight(jobs.popleft())]
    assert jobs[lanes.next_free(jobs, first)].series.study_folder == "3"
    assert lanes.next_free(deque([job("2", "P")]), first) is None


def test_a_series_larger_than_a_share_has_the_machine_for_itself():
    here = places.Places(local=True, memory_mib={"a": 1000.0, "b": 1000.0})
    one = flight(job("1", ""))
    assert here.place(500.0, []) == "a"
    assert here.place(500.0, [one]) == "b"
    assert here.place(500.0, [one, flight(job("2", ""), "b"), one, flight(job("3", ""), "b")]) == "", "two each"
    assert here.place(1500.0, [one]) == ""
    assert here.place(1500.0, []) == "a"
    assert here.place(500.0, [replace(one, alone=True)]) == ""
    there = places.Places(local=False, memory_mib={"a": 1000.0, "b": 2000.0})
    assert (there.place(1500.0, [one]), there.place(9000.0, [])) == ("b", "b"), "too large for all: it says so"


def test_workers_share_a_machine():
    gpus = {"CUDA_VISIBLE_DEVICES": "3,5"}
    got = shares.divide(2, parse_wish("auto"), OPENVINO, 4096.0, environment=gpus)
    assert [(one.gpu, one.memory_mib) for one in got] == [("3", 2048.0), ("5", 2048.0)]
    assert got[0].resources == {"MEMORY": 2048, "GPU": 1.0}
    with pytest.raises(errors.UsageError, match="--workers 3: each has a GPU of its own, and there are 2 GPUs"):
        shares.divide(3, parse_wish("auto"), OPENVINO, 4096.0, environment=gpus)
    with pytest.raises(errors.UsageError, match="is one GPU"):
        shares.divide(2, parse_wish("gpu:1"), OPENVINO, 4096.0, environment=gpus)
    with pytest.raises(errors.UsageError, match=r"0\.8 GiB in each; 1\.0 GiB are at hand"):
        shares.divide(2, parse_wish("cpu"), OPENVINO, 1024.0, environment=gpus)
    with pytest.raises(errors.DeviceMissing, match="the driver lists none"):
        shares.divide(2, parse_wish("auto"), OPENVINO, 4096.0, True, {"CUDA_VISIBLE_DEVICES": ""})


def test_a_worker_that_would_do_it_otherwise_is_refused(order, tmp_path, monkeypatch):
    answer = at_work._answer("another version", b"not even read", lambda event: None)
    assert isinstance(answer, Unfit)
    assert "another version here" in answer.why
    cards = at_work.card_hashes(order.weights)
    errand = Errand("run", order, teams.make_networks, cards, str(tmp_path))
    monkeypatch.setattr(at_work, "install", lambda handler: None)
    with pytest.raises(errors.OutputNotWritable, match="is not there, or another folder than here"):
        at_work._check(errand)
    errand.mark.parent.mkdir(parents=True)
    errand.mark.touch()
    with pytest.raises(errors.UsageError, match=r"/absent is not there"):
        at_work._check(replace(errand, order=replace(order, sources=(tmp_path / "absent",))))
    with pytest.raises(errors.WeightsError, match="are others there than here: lungs"):
        at_work._check(replace(errand, cards={**cards, "lungs": "0" * 64}))
    at_work._check(pickle.loads(pickle.dumps(errand)))
    with_lobes = replace(order, lobes="atlas")
    cards = at_work.card_hashes(order.weights, "atlas")
    at_work._errands.clear()
    at_work._check(replace(errand, order=with_lobes, cards=cards))


@pytest.mark.parametrize(
    ("address", "tls", "said"),
    [
        ("localhost:8786", None, "wanted the address of a Dask scheduler"),
        ("tcp://nowhere", None, "wanted the address of a Dask scheduler"),
        ("tls://nowhere:8786", None, "go together"),
        ("tcp://nowhere:8786", Path("keys"), "go together"),
    ],
)
def test_an_address_says_whether_it_is_encrypted(address, tls, said):
    with pytest.raises(errors.UsageError, match=said):
        crew.check_address(address, tls)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(crew, "CONNECT_S", 0.5)
    with pytest.raises(errors.WorkersLost, match=r"no Dask scheduler is answering at tcp://127\.0\.0\.1:9 "):
        crew.Crew(address="tcp://127.0.0.1:9").open()
    with pytest.raises(errors.UsageError, match=r"no ca\.crt, tls\.crt, tls\.key there"):
        crew.security_of(tmp_path)


def test_workers_that_a_scheduler_does_not_take_give_up(monkeypatch):
    """Something is listening there, with other certificates: that is not a scheduler that was lost."""
    distributed = pytest.importorskip("distributed")

    class Refused:
        def __init__(self, *_, **__): ...

        def __await__(self):
            raise OSError("no handshake")
            yield

        async def close(self, **_): ...

    async def listens(address):
        return True

    monkeypatch.setattr(distributed, "Nanny", Refused)
    monkeypatch.setattr(joining, "_is_answering", listens)
    monkeypatch.setattr(joining, "PATIENCE_S", 0.5)
    joined = joining._joined("tcp://127.0.0.1:9", [shares.Share(1, 4096.0)], None)
    with pytest.raises(errors.WorkersLost, match=r"no Dask scheduler has been answering at tcp://127\.0\.0\.1:9"):
        asyncio.run(asyncio.wait_for(joined, 3))


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(errors.DeviceMissing, match=r"pip install 'covct\[workers\]'"):
        crew.import_distributed()


def test_a_person_sees_how_many_are_at_work():
    """One of them is told of, the last that began."""

    def of(folder, event, **more):
        return {"event": event, "folder": folder, "series": folder, **more}

    doing, told = Doing(to_do=3).after(of("2/2", "started", slices=100), 0.0), Live()  # its first worker died
    told.hear({"event": "found", "to_do": 3, "slices_to_do": 300}, 0.0)
    for event in (of("1/1", "started", slices=100), of("2/2", "started", slices=100), of("1/1", "step", step="lungs")):
        doing = doing.after(event, 1.0)
        told.hear(event, 1.0)
    assert (doing.folder, doing.step, doing.at_work) == ("2/2", "", 2)
    assert told.at(1.0) == "2/2 and 1 more"
    doing = doing.after(of("2/2", "step", step="load"), 2.0).after(of("1/1", "done"), 3.0)
    told.hear(of("1/1", "done"), 3.0)
    assert (doing.folder, doing.step, doing.at_work, doing.to_do) == ("2/2", "load", 1, 2)
    assert told.share == pytest.approx(1 / 3)
    assert doing.after(of("2/2", "done"), 4.0).folder == ""
