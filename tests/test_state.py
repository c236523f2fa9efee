"""The ledger: what a crash leaves, and what it does not."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from covct.disk import lockfile, signals, state
from covct.disk.attempts import Attempt, begin_attempt, forgive_attempt, note_comparing, note_timeout
from covct.disk.durable import write_json
from covct.disk.outcome import Outcome, read_outcome, work_key
from covct.errors import OutputLocked, OutputNotWritable, Stopped


def outcome(key="k1", status="done", finished=""):
    return Outcome(status=status, work_key=key, finished=finished)


def stage_with(out, key, text):
    stage = state.new_stage(out, key)
    (stage / "report.json").write_text(text)
    return stage


def test_work_key_knows_the_input_the_settings_and_the_weights():
    base = work_key(("1.2", "1.3"), {"formats": ["seg"]}, {"lungs": "aa", "infection": "bb"})
    assert work_key(("1.3", "1.2"), {"formats": ["seg"]}, {"infection": "bb", "lungs": "aa"}) == base
    assert work_key(("1.3",), {"formats": ["seg"]}, {"lungs": "aa", "infection": "bb"}) != base
    assert work_key(("1.2", "1.3"), {"formats": ["png"]}, {"lungs": "aa", "infection": "bb"}) != base
    assert work_key(("1.2", "1.3"), {"formats": ["seg"]}, {"lungs": "aa", "infection": "cc"}) != base
    assert work_key(("1.2", "1.3"), {"formats": ["seg"]}, {"lungs": "bb", "infection": "aa"}) != base


def test_commit_and_read(tmp_path):
    state.commit(tmp_path, "study/series", stage_with(tmp_path, "k1", "{}"), outcome())
    assert read_outcome(tmp_path / "study/series") == outcome()


def test_a_new_result_replaces_the_old_whole(tmp_path):
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    (tmp_path / "s/t/extra").write_text("of the old result")
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k2", "new"), outcome("k2"))
    assert (tmp_path / "s/t/report.json").read_text() == "new"
    assert not (tmp_path / "s/t/extra").exists()
    assert not list((tmp_path / ".covct" / "old").glob("*/*"))


def test_a_stage_without_outcome_is_no_result(tmp_path):
    stage_with(tmp_path, "k1", "half")
    state.recover(tmp_path)
    assert not list(tmp_path.glob("*/*/report.json"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "done"}', '{"unknown": 1}'])
def test_a_damaged_outcome_is_none(tmp_path, content):
    (tmp_path / "outcome.json").write_text(content)
    assert read_outcome(tmp_path) is None


def test_attempts_count_for_one_key_only(tmp_path):
    assert [begin_attempt(tmp_path, "s/t", "k1").attempts for _ in range(3)] == [1, 2, 3]
    assert begin_attempt(tmp_path, "s/t", "k2").attempts == 1
    forgive_attempt(tmp_path, "s/t")
    assert begin_attempt(tmp_path, "s/t", "k2").attempts == 1


def test_a_stop_signal_does_not_forgive_the_crashes_before_it(tmp_path):
    """Else a series that kills the process twice a night, with a restart between, would never be given up."""
    for _ in range(3):
        begin_attempt(tmp_path, "s/t", "k1")
    forgive_attempt(tmp_path, "s/t")
    assert begin_attempt(tmp_path, "s/t", "k1").attempts == 3


@pytest.mark.parametrize(
    ("ends", "may"),
    [
        (((), ()), True),
        (((True,), (True,)), False),
        (((True,), ()), True),
        (((True, False), (True,)), True),
    ],
    ids=["elsewhere", "both comparing", "one comparing", "one after comparing"],
)
def test_a_last_attempt_is_not_compared_where_all_before_it_ended_at_that(tmp_path, ends, may):
    for noted in ends:
        assert begin_attempt(tmp_path, "s/t", "k1").may_be_compared
        for comparing in noted:
            note_comparing(tmp_path, "s/t", comparing)
    last = begin_attempt(tmp_path, "s/t", "k1")
    assert (last.attempts, last.may_be_compared) == (3, may)


def test_a_stop_while_comparing_is_no_death(tmp_path):
    for _ in range(2):
        begin_attempt(tmp_path, "s/t", "k1")
    note_comparing(tmp_path, "s/t", True)
    forgive_attempt(tmp_path, "s/t")
    assert begin_attempt(tmp_path, "s/t", "k1").died_comparing == 0


def test_a_timeout_is_remembered_until_the_series_has_an_outcome(tmp_path):
    begin_attempt(tmp_path, "s/t", "k1")
    note_timeout(tmp_path, "s/t", 60)
    assert begin_attempt(tmp_path, "s/t", "k1").timed_out_s == 60
    forgive_attempt(tmp_path, "s/t")
    forgive_attempt(tmp_path, "s/t")
    assert begin_attempt(tmp_path, "s/t", "k1").timed_out_s == 60
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "{}"), outcome("k1", "failed"))
    assert begin_attempt(tmp_path, "s/t", "k1") == Attempt("s/t", "k1", 1)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"work_key": "k1"}', '{"folder": "s/t", "attempts": 2, "work_key": "k1", "x": 1}',
        '{"folder": "s/t", "attempts": 2, "work_key": "k1", "supersedes": ["../elsewhere"]}',
        '{"folder": "../../t", "attempts": 2, "work_key": "k1"}',
    ],
)  # fmt: skip
def test_a_damaged_note_of_an_attempt_counts_from_one(tmp_path, content):
    begin_attempt(tmp_path, "s/t", "k1")
    [note] = (tmp_path / ".covct" / "attempts").iterdir()
    note.write_text(content)
    state.recover(tmp_path)
    assert begin_attempt(tmp_path, "s/t", "k1").attempts == 1


def _hold(out, ready, done):
    with state.lock(out):
        ready.set()
        done.wait(20)


def test_a_second_process_is_told_who_holds_the_tree(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    assert ready.wait(20)
    with pytest.raises(OutputLocked, match=f"process {holder.pid}"), state.lock(tmp_path):
        pass
    done.set()
    holder.join()
    with state.lock(tmp_path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, done))
    holder.start()
    assert ready.wait(20)
    holder.kill()
    holder.join()
    with state.lock(tmp_path):
        pass


def test_output_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match="cannot write results"), state.lock(tmp_path / "file" / "out"):
        pass


def test_a_disk_too_full_for_the_lock_is_said_in_a_sentence(tmp_path):
    (tmp_path / ".covct").mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OutputNotWritable, match="cannot write results"), state.lock(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_nan_never_reaches_a_json_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"percent": float("nan")})


def test_outcome_is_plain_json(tmp_path):
    write_json(tmp_path / "outcome.json", outcome().model_dump())
    assert json.loads((tmp_path / "outcome.json").read_text())["status"] == "done"


class Killed(BaseException):
    """The process is gone: nothing after this line runs, not even what cleans up."""


CHANGES = ("rename", "unlink", "mkdir", "replace", "fsync", "rmdir")


class killed_at:  # noqa: N801 - reads as a sentence
    """Within, the process dies before the `number`-th change of the file system (0: before the first)."""

    def __init__(self, number):
        self.left, self.real = number, {name: getattr(os, name) for name in CHANGES}

    def __enter__(self):
        def counted(real):
            def change(*arguments, **options):
                if self.left == 0:
                    raise Killed
                self.left -= 1
                return real(*arguments, **options)

            return change

        for name, real in self.real.items():
            setattr(os, name, counted(real))
        return self

    def __exit__(self, kind, error, trace):
        for name, real in self.real.items():
            setattr(os, name, real)
        return kind is Killed


def results(out):
    """Folder to (work key, content) of every result in its place; whole, or this fails."""
    found = {}
    for folder in out.glob("*/*"):
        if folder.parent.name.startswith("."):
            continue
        key = read_outcome(folder).work_key
        found[f"{folder.parent.name}/{folder.name}"] = (key, (folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("number", range(40))
def test_killed_at_any_change_of_a_commit_one_result_stands_whole(tmp_path, number):
    """Old or new, never both, never half; and what the new one supersedes stands exactly as long as the old one."""
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    state.commit(tmp_path, "s/worse", stage_with(tmp_path, "k0", "worse"), outcome("k0"))
    begin_attempt(tmp_path, "s/t", "k2")
    stage = stage_with(tmp_path, "k2", "new")
    with killed_at(number) as kill:
        state.commit(tmp_path, "s/t", stage, outcome("k2"), supersedes=["s/worse"])
    died = kill.left == 0
    state.recover(tmp_path)
    committed = results(tmp_path)["s/t"] == ("k2", "new")
    assert committed or results(tmp_path)["s/t"] == ("k1", "old")
    assert ("s/worse" in results(tmp_path)) is not committed
    assert committed or died
    left = {path.name for path in (tmp_path / ".covct").iterdir()} - {"attempts"}
    assert not left
    assert begin_attempt(tmp_path, "s/t", "k2").attempts == (1 if committed else 2)


@pytest.mark.parametrize("number", range(8))
def test_killed_while_a_result_is_kept_it_stands_with_one_outcome_or_the_other(tmp_path, number):
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    begin_attempt(tmp_path, "s/t", "k1")
    stage = state.new_stage(tmp_path, "k1")
    with killed_at(number) as kill:
        state.keep(tmp_path, "s/t", stage, outcome("k1").model_copy(update={"signatures": ["new"]}))
    state.recover(tmp_path)
    assert results(tmp_path) == {"s/t": ("k1", "old")}
    assert read_outcome(tmp_path / "s/t").signatures in ([], ["new"])
    assert not list((tmp_path / ".covct").glob("staging/*"))
    assert sorted(path.name for path in (tmp_path / "s/t").iterdir()) == ["outcome.json", "report.json"]
    if kill.left:
        assert read_outcome(tmp_path / "s/t").signatures == ["new"]
        assert begin_attempt(tmp_path, "s/t", "k1").attempts == 1


@pytest.mark.parametrize("number", range(12))
def test_killed_while_recovering_recovers_the_next_time(tmp_path, number):
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    old = tmp_path / ".covct" / "old" / "s"
    old.mkdir(parents=True)
    os.rename(tmp_path / "s" / "t", old / "t")
    stage_with(tmp_path, "k2", "new")
    with killed_at(number):
        state.recover(tmp_path)
    state.recover(tmp_path)
    assert results(tmp_path) == {"s/t": ("k1", "old")}
    assert [path.name for path in (tmp_path / ".covct").iterdir()] == ["attempts"]


def test_disk_failing_between_the_two_renames_leaves_the_old_result(tmp_path, monkeypatch):
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    stage, rename = stage_with(tmp_path, "k2", "new"), os.rename

    def failing(source, target):
        if source == stage:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputNotWritable, match="Input/output error"):
        state.commit(tmp_path, "s/t", stage, outcome("k2"))
    assert results(tmp_path) == {"s/t": ("k1", "old")}, "at once, not only after the next start"


def test_folders_of_a_new_study_are_on_the_disk_before_its_commit_counts(tmp_path, monkeypatch):
    """A power failure after the rename must not lose the study's folder, which only its parent knows."""
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "{}"), outcome())
    assert str(tmp_path) in synced, "the tree, which got the study's folder"
    assert synced.index(str(tmp_path)) < synced.index(str(tmp_path / "s")), "and then the study, which got the result"
    assert any(name.endswith("report.json") for name in synced[: synced.index(str(tmp_path))])


def test_half_written_summaries_of_dead_processes_go(tmp_path):
    (tmp_path / ".covct").mkdir()
    for process in (4194999, 1):
        (tmp_path / f".summary.csv.{process}.tmp").write_text("half")
    state.recover(tmp_path)
    assert [path.name for path in tmp_path.glob(".summary*")] == [".summary.csv.1.tmp"]


@pytest.fixture
def shielded():
    """A signal that comes after the test, or to a thread that an earlier one left, does not end the process of all."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGTERM, signal.SIGINT)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def test_a_stop_signal_waits_until_a_commit_is_whole(tmp_path, monkeypatch, shielded):
    rename = os.rename

    def signalled(source, target):
        if str(source).startswith(str(tmp_path)):
            monkeypatch.setattr(os, "rename", rename)  # once: nothing else shall end this process
            os.kill(os.getpid(), signal.SIGTERM)
        rename(source, target)

    stage = stage_with(tmp_path, "k1", "{}")
    with signals.stoppable():
        monkeypatch.setattr(os, "rename", signalled)
        with pytest.raises(Stopped, match="SIGTERM"):
            state.commit(tmp_path, "s/t", stage, outcome())
    assert results(tmp_path) == {"s/t": ("k1", "{}")}
    assert not list((tmp_path / ".covct" / "attempts").iterdir())


def test_only_the_first_stop_signal_is_raised(shielded):
    """A second one, from an impatient hand, must not break the cleaning up after the first."""
    with signals.stoppable():
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)


KEYS = st.sampled_from(["k1", "k2", "k3"])
FOLDERS = st.sampled_from(["s/a", "s/b", "r/a"])


class Ledger(RuleBasedStateMachine):
    """Any sequence of attempts, commits, deaths and restarts, against what a plain dictionary says."""

    @initialize()
    def begin(self):
        import tempfile
        from pathlib import Path

        self.out = Path(tempfile.mkdtemp())
        self.stands: dict[str, tuple[str, str]] = {}
        self.attempts: dict[str, tuple[str, int]] = {}
        self.written = 0

    def teardown(self):
        if hasattr(self, "out"):
            shutil.rmtree(self.out)

    def expected(self, folder, key):
        before = self.attempts.get(folder)
        return before[1] + 1 if before and before[0] == key else 1

    def work(self, folder, key):
        number = self.expected(folder, key)
        assert begin_attempt(self.out, folder, key).attempts == number
        self.attempts[folder] = (key, number)
        self.written += 1
        return stage_with(self.out, key, str(self.written))

    @rule(folder=FOLDERS, key=KEYS, others=st.sets(FOLDERS))
    def commit(self, folder, key, others):
        stage = self.work(folder, key)
        supersedes = others - {folder}
        state.commit(self.out, folder, stage, outcome(key, finished=str(self.written)), sorted(supersedes))
        self.committed(folder, key, supersedes)

    def committed(self, folder, key, supersedes):
        self.stands[folder] = (key, str(self.written))
        for other in supersedes:
            self.stands.pop(other, None)
        self.attempts.pop(folder, None)

    @rule(folder=FOLDERS, key=KEYS, others=st.sets(FOLDERS), number=st.integers(0, 45))
    def killed(self, folder, key, others, number):
        stage = self.work(folder, key)
        supersedes = others - {folder}
        with killed_at(number):
            state.commit(self.out, folder, stage, outcome(key, finished=str(self.written)), sorted(supersedes))
        state.recover(self.out)
        if results(self.out).get(folder) == (key, str(self.written)):
            self.committed(folder, key, supersedes)

    @rule(folder=FOLDERS, key=KEYS)
    def stopped(self, folder, key):
        self.work(folder, key)
        forgive_attempt(self.out, folder)
        key, number = self.attempts.pop(folder)
        if number > 1:
            self.attempts[folder] = (key, number - 1)

    @rule(folder=FOLDERS, key=KEYS)
    def crashed(self, folder, key):
        self.work(folder, key)
        state.recover(self.out)

    @invariant()
    def nothing_lost_nothing_twice(self):
        if hasattr(self, "out"):
            assert results(self.out) == self.stands


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


@pytest.fixture
def no_flock(monkeypatch):
    """A file system that offers no locks."""

    def refused(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(state.fcntl, "flock", refused)
    monkeypatch.setattr(lockfile, "SETTLE_S", 0)


def write_owner(out, **changed):
    (out / ".covct").mkdir()
    path = out / ".covct" / "lock.owner"
    path.write_text(json.dumps({**lockfile.me(), "beat": 0, **changed}))
    return path


def test_without_file_locks_a_second_process_is_told_who_holds_the_tree(tmp_path, no_flock):
    with (
        state.lock(tmp_path),
        pytest.raises(OutputLocked, match=f"process {os.getpid()}"),
        state.lock(tmp_path),
    ):
        pass
    assert not (tmp_path / ".covct" / "lock.owner").exists()
    with state.lock(tmp_path):
        pass


@pytest.mark.parametrize(
    "stale",
    [
        {"process": 4194999, "process_start": "1"},  # no such process
        {"process_start": "1"},  # its number is another's now
        {"boot": "another"},  # the host was restarted
    ],
)
def test_a_stale_lock_file_of_this_host_is_taken_over_at_once(tmp_path, no_flock, monkeypatch, stale):
    monkeypatch.setattr(lockfile.time, "sleep", lambda seconds: seconds and pytest.fail("nothing to wait for"))
    write_owner(tmp_path, **stale)
    with state.lock(tmp_path):
        assert json.loads((tmp_path / ".covct" / "lock.owner").read_text())["process"] == os.getpid()


def test_a_lock_file_of_another_host_is_stale_once_its_heart_stood_still(tmp_path):
    """By the onlooker's own time: clocks of two hosts need not agree."""
    path, slept = write_owner(tmp_path, host="other", boot="other"), []
    with lockfile.held(path, sleep=slept.append):
        assert sum(slept) >= lockfile.STALE_S


def test_a_lock_file_whose_heart_beats_is_respected(tmp_path):
    path = write_owner(tmp_path, host="other", boot="other")

    def beat(seconds):
        path.write_text(json.dumps({**json.loads(path.read_text()), "beat": 1}))

    with pytest.raises(OutputLocked, match="on other"), lockfile.held(path, sleep=beat):
        pass
    assert json.loads(path.read_text())["host"] == "other"


def test_of_two_that_take_over_one_stale_lock_file_one_wins(tmp_path):
    path = write_owner(tmp_path, boot="another")

    def overtaken(seconds):
        path.write_text(json.dumps({**lockfile.me(), "process": 1, "token": "another"}))

    with pytest.raises(OutputLocked, match="at the same time"), lockfile.held(path, sleep=overtaken):
        pass


def test_a_process_that_lost_its_lock_file_stops(tmp_path, monkeypatch):
    """It slept longer than the others would wait, a suspended host for one: from now on it would do harm."""
    monkeypatch.setattr(lockfile, "HEARTBEAT_S", 0.01)
    path, waited = tmp_path / "lock.owner", threading.Event()
    with (
        signals.stoppable(),
        pytest.raises(OutputLocked, match="another covct (took|has taken)"),
        lockfile.held(path, sleep=lambda seconds: None),
    ):
        path.write_text(json.dumps({**lockfile.me(), "process": 1, "token": "another"}))
        waited.wait(10)
    assert path.exists(), "it is another's now"


@pytest.fixture
def beats(tmp_path, monkeypatch):
    """A held lock file whose heart beats often; called, it waits for two beats more."""
    monkeypatch.setattr(lockfile, "HEARTBEAT_S", 0.01)
    path = tmp_path / "lock.owner"
    read = lockfile._owner

    def beat():
        owner = read(path)
        return owner["beat"] if owner else 0

    def two_more():
        before, end = beat(), time.monotonic() + 10
        while beat() < before + 2:
            assert time.monotonic() < end, "its heart stands still"
            time.sleep(0.002)

    with signals.stoppable(), lockfile.held(path, sleep=lambda seconds: None):
        yield two_more
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_a_lock_file_that_cannot_be_read_for_a_moment_is_not_anothers(beats, tmp_path, monkeypatch, number):
    """A network drive, or a process with many files open: the night goes on, and its heart beats for the others."""

    def unreadable(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(lockfile, "_owner", unreadable)
        beats()
        lockfile.check(tmp_path / "lock.owner")
    beats()


def test_a_lock_file_that_somebody_removed_is_made_again(beats, tmp_path):
    beats()
    token = json.loads((tmp_path / "lock.owner").read_text())["token"]
    (tmp_path / "lock.owner").unlink()
    beats()
    assert json.loads((tmp_path / "lock.owner").read_text())["token"] == token


def test_a_lock_file_that_was_removed_is_anothers_who_is_quicker(tmp_path, monkeypatch):
    monkeypatch.setattr(lockfile, "HEARTBEAT_S", 0.01)
    path, waited, create = tmp_path / "lock.owner", threading.Event(), lockfile._created

    def overtaken(path, content):
        path.write_text(json.dumps({**lockfile.me(), "process": 1, "token": "another"}))
        return create(path, content)

    with (
        signals.stoppable(),
        pytest.raises(OutputLocked, match="another covct (took|has taken)"),
        lockfile.held(path, sleep=lambda seconds: None),
    ):
        monkeypatch.setattr(lockfile, "_created", overtaken)
        path.unlink()
        waited.wait(10)
    assert json.loads(path.read_text())["token"] == "another"


def _answers(monkeypatch, number=None):
    """`flock` as a mount has it: it fails, or it lets everybody in."""

    def flock(*_):
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(state.fcntl, "flock", flock)


def _work(out, number, ready, done):
    """A writer that holds the tree, whatever `flock` says."""
    with pytest.MonkeyPatch.context() as patch:
        _answers(patch, number)
        with state.lock(out):
            (out / "stage").mkdir()
            ready.set()
            done.wait(20)


@pytest.fixture
def writer(tmp_path, request):
    """Another process at work in the tree; its `flock` answers with the error that is asked for, or lets it in."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_work, args=(tmp_path, request.param, ready, done))
    process.start()
    assert ready.wait(20)
    yield process
    done.set()
    process.join()


@pytest.mark.parametrize("writer", [None, errno.ENOTSUP], indirect=True)
@pytest.mark.parametrize("answer", [None, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_of_two_writers_one_is_kept_out_whatever_flock_answers(tmp_path, monkeypatch, writer, answer):
    """NFS with `nolock` lets both in; a lock service that one host does not reach fails for one."""
    _answers(monkeypatch, answer)
    with pytest.raises(OutputLocked, match=f"process {writer.pid}"), state.lock(tmp_path):
        pytest.fail("two at once")


def test_two_hosts_whose_locks_do_not_meet_do_not_write_together(tmp_path, monkeypatch):
    monkeypatch.setattr(lockfile, "HEARTBEAT_S", 0.02)
    with state.lock(tmp_path):
        _answers(monkeypatch)
        real = lockfile.me()
        monkeypatch.setattr(lockfile, "me", lambda: real | {"host": "other", "boot": "other"})
        with pytest.raises(OutputLocked, match="another covct is writing here"), state.lock(tmp_path):
            pytest.fail("two at once")
    with state.lock(tmp_path):
        pass


def test_a_container_that_was_killed_is_followed_at_once_by_another(tmp_path, monkeypatch):
    """Its process cannot be seen from here, but the kernel would still hold its lock if it lived."""
    monkeypatch.setattr(lockfile.time, "sleep", lambda seconds: pytest.fail("nothing to wait for"))
    write_owner(tmp_path, host="3f2c", process_namespace="pid:[1]", flock=True)
    with state.lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.EINTR])
def test_a_lock_service_that_does_not_answer_is_no_reason_to_go_without(tmp_path, monkeypatch, number):
    _answers(monkeypatch, number)
    monkeypatch.setattr(lockfile, "SETTLE_S", 0)
    with pytest.raises(OutputNotWritable, match="locks are not responding"), state.lock(tmp_path):
        pytest.fail("without a lock")
    assert not (tmp_path / ".covct" / "lock.owner").exists()


def test_a_lock_file_that_its_maker_did_not_live_to_fill_is_stale_soon(tmp_path):
    (tmp_path / "lock.owner").touch()
    slept = []
    with lockfile.held(tmp_path / "lock.owner", True, slept.append):
        assert sum(slept) <= lockfile.HEARTBEAT_S


def test_a_heartbeat_needs_no_room_on_the_disk(tmp_path, monkeypatch):
    """Else a full disk makes the holder look dead, and another host takes the tree."""
    monkeypatch.setattr(lockfile, "HEARTBEAT_S", 0.01)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with state.lock(tmp_path):
        path = tmp_path / ".covct" / "lock.owner"
        resource.setrlimit(resource.RLIMIT_FSIZE, (lockfile.BYTES, before[1]))
        monkeypatch.setattr(os, "open", lambda *_: pytest.fail("a new file"))
        try:
            beats = set()
            for _ in range(1000):
                beats.add(json.loads(path.read_text())["beat"])
                lockfile.threading.Event().wait(0.002)
                if len(beats) > 3:
                    break
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            monkeypatch.undo()
        assert len(beats) > 3


def test_nothing_is_committed_once_the_lock_is_anothers(tmp_path):
    state.commit(tmp_path, "s/t", stage_with(tmp_path, "k1", "old"), outcome("k1"))
    with pytest.raises(OutputLocked, match="another covct (took|has taken)"), state.lock(tmp_path):
        (tmp_path / ".covct" / "lock.owner").write_text(json.dumps({**lockfile.me(), "token": "another"}))
        state.commit(tmp_path, "s/t", stage_with(tmp_path, "k2", "new"), outcome("k2"))
    assert results(tmp_path) == {"s/t": ("k1", "old")}
