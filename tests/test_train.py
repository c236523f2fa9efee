"""Training as it goes wrong: killed, on a full disk, with other settings, with a loss that is no number."""

import csv
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

keras = pytest.importorskip("keras")
h5py = pytest.importorskip("h5py")

from covct.architectures import ARCHITECTURES  # noqa: E402
from covct.commands.training import _convert  # noqa: E402
from covct.errors import NotANumber, OutputNotWritable, Stopped, UsageError, WeightsError  # noqa: E402
from covct.networks import runtimes, to_openvino  # noqa: E402
from covct.networks.cards import Call, file_sha256, read_card, write_card  # noqa: E402
from covct.networks.network import Network  # noqa: E402
from covct.networks.runtimes import why_not_converted  # noqa: E402
from covct.networks.segment import load_network  # noqa: E402
from covct.training import checkpoints, find_lr  # noqa: E402
from covct.training.average import EVERY, RunningAverage  # noqa: E402
from covct.training.batches import batches, draw_batch, sample_seed  # noqa: E402
from covct.training.build import arguments_of, build, check, compiled, started  # noqa: E402
from covct.training.cross_validation import FoldFailed, credit, gpus, run_in_parallel, summarise, threshold_of  # noqa: E402
from covct.training.curves import LEFT, MARGIN, WIDTH, draw_progress  # noqa: E402
from covct.training.events import EpochEvents  # noqa: E402
from covct.training.find_lr import draw_plot, find_learning_rate, smoothed, suggest  # noqa: E402
from covct.training.find_lr import told as sentence_of  # noqa: E402
from covct.training.finish import _card  # noqa: E402
from covct.training.folds import assign_folds, held_out, keep_folds, parse_split  # noqa: E402
from covct.training.loop import prepare, train  # noqa: E402
from covct.training.progress import Pace, Progress  # noqa: E402
from covct.training.samples import plans  # noqa: E402
from covct.training.schedules import SCHEDULES  # noqa: E402
from covct.training.settings import Settings  # noqa: E402
from covct.training.threshold import choose_threshold  # noqa: E402
from covct.training.train_event import TrainEvent  # noqa: E402
from covct.training.validation import Examples, parts_of, tile, validate  # noqa: E402
from support import tiny_training  # noqa: E402
from support.events import as_published, events_in  # noqa: E402
from support.running import invoke  # noqa: E402
from support.thresholds import threshold_card  # noqa: E402
from support.tiny_training import SETTINGS, data_folder, tiny_plan  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", tiny_training.tiny)
    monkeypatch.setitem(plans.PLANS, "lungs", tiny_plan)


@pytest.fixture
def data(tmp_path) -> Path:
    return data_folder(tmp_path)


def in_a_process(*arguments, backend="tensorflow"):
    """One thread of arithmetic, as `--exact` has it: sums in the order of many threads differ in the last bit."""
    environment = {
        "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "tiny_training.py", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=240, env={**os.environ, **environment},
    )  # fmt: skip


def weights_of(out: Path) -> str:
    from covct.networks.segment import load_network

    digest = hashlib.sha256()
    for array in load_network(out / "lungs.json")[1].get_weights():
        digest.update(array.tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_training_that_is_killed_and_resumed_ends_with_the_weights_of_one_that_was_not(backend, tmp_path):
    """Killed in the middle of an epoch and of the steps between two checkpoints, with all that has a state."""
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    killed = in_a_process(tmp_path / "killed", "--die-at", 2, 3, backend=backend)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "killed" / "lungs.keras").exists()
    resumed = in_a_process(tmp_path / "killed", "--resume", "--then", tmp_path / "whole", backend=backend)
    assert (resumed.returncode, resumed.stderr.count("resuming at epoch 2, step 2")) == (0, 1)
    scores = resumed.stdout.splitlines()
    assert scores[0] == scores[1]
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
    for name in ("lungs.csv", "lungs-history.json"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_stop_signal_writes_a_checkpoint_of_the_very_step(data, tmp_path):
    def stop(event):
        if event["event"] == "step" and (event["epoch"], event["step"]) == (1, 3):
            raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        train(SETTINGS, data, tmp_path / "out", report=stop)
    progress = checkpoints.read_checkpoint(tmp_path / "out" / "checkpoints" / "lungs").state["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 3)


def stopped_after_an_epoch(data, out, settings=SETTINGS):
    def stop(event):
        if event["event"] == "epoch":
            raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        train(settings, data, out, report=stop)


def test_resume_with_other_settings_or_data_names_what_differs(data, tmp_path):
    stopped_after_an_epoch(data, tmp_path / "out")
    other = replace(SETTINGS, learning_rate=0.5, loss="dice+ce")
    with pytest.raises(UsageError, match=r"learning_rate was 0.001, is 0.5; settings.loss was None, is dice\+ce"):
        train(other, data, tmp_path / "out", resume=True)
    (data / "volumes.csv").write_text("first,last,patient_group,anterior\n0,0,altered,up\n")
    with pytest.raises(UsageError, match=r"data.ma was [0-9a-f]{16}, is [0-9a-f]{16}"):
        train(SETTINGS, data, tmp_path / "out", resume=True)


def test_a_checkpoint_of_before_there_were_neighbours_and_patches_is_gone_on_with(data, tmp_path):
    settings, folder = replace(SETTINGS, epochs=1, split="none", threshold=0.5), tmp_path / "out" / "checkpoints"
    train(settings, data, tmp_path / "out")
    before = checkpoints.read_checkpoint(folder / "lungs")
    for name in ("neighbours", "patch", "spacing_mm", "classes"):
        del before.state["facts"]["settings"][name]
    before.path.unlink()
    checkpoints.write_checkpoint(folder / "lungs", 999, before.arrays, before.state)
    told = []
    train(settings, data, tmp_path / "out", resume=True, report=told.append)
    assert told[1]["text"] == "finished before"
    with pytest.raises(UsageError, match="settings.neighbours was 0, is 1"):
        train(replace(settings, neighbours=1), data, tmp_path / "out", resume=True)


def test_an_unfinished_training_is_not_thrown_away_for_a_new_one(data, tmp_path):
    stopped_after_an_epoch(data, tmp_path / "out")
    with pytest.raises(UsageError, match="unfinished training of lungs, epoch 2, step 0"):
        train(SETTINGS, data, tmp_path / "out")


def epochs_of(folder: Path):
    """Events by epoch, as TensorFlow reads them, which checks the checksums."""
    tensorflow = pytest.importorskip("tensorflow")
    from tensorflow.core.util import event_pb2

    [file] = folder.glob("*tfevents*")
    read = [event_pb2.Event.FromString(record.numpy()) for record in tensorflow.data.TFRecordDataset(str(file))]
    assert read[0].file_version == "brain.Event:2"
    assert [event.step for event in read] == list(range(len(read)))
    return [event.summary.value for event in read[1:]]


def events_of(folder: Path) -> list[dict[str, float]]:
    return [
        {value.tag: value.simple_value for value in values if value.HasField("simple_value")}
        for values in epochs_of(folder)
    ]


def pictures_of(folder: Path) -> list[np.ndarray]:
    """The example overlays, an epoch each."""
    return [
        cv2.imdecode(np.frombuffer(value.image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        for values in epochs_of(folder)
        for value in values
        if value.HasField("image")
    ]


def test_a_training_that_goes_on_has_no_step_twice_in_its_event_file(data, tmp_path):
    """Killed after the event of its second epoch and before the checkpoint that knows of it, within the picture."""
    out = tmp_path / "out"
    stopped_after_an_epoch(data, out)
    [first] = pictures_of(out / "tensorboard" / "lungs")
    stray = EpochEvents(out / "tensorboard" / "lungs", {"loss": [0.5]})
    stray.add(2, {"loss": 0.25}, cv2.imencode(".png", np.zeros((300, 300, 3), np.uint8))[1].tobytes())
    stray.close()
    file = next((out / "tensorboard" / "lungs").iterdir())
    file.write_bytes(file.read_bytes()[:-9])
    train(SETTINGS, data, out, resume=True)
    rows = list(csv.DictReader((out / "lungs.csv").read_text().splitlines()))
    assert [event["val_dice"] for event in events_of(out / "tensorboard" / "lungs")] == [
        pytest.approx(float(row["val_dice"]), rel=1e-6) for row in rows
    ]
    assert len(rows) == SETTINGS.epochs
    pictures = pictures_of(out / "tensorboard" / "lungs")
    assert len(pictures) == SETTINGS.epochs
    assert (pictures[0] == first).all()
    assert pictures[1].shape == (256, 2 * 256, 3), "two samples of one source"
    shown = cv2.imread(str(out / "progress.png"))
    width = len(draw_progress("lungs", json.loads((out / "lungs-history.json").read_text()), 1, 3)[0])
    assert shown.shape[1] == width
    assert not list(out.glob("*.part*")), "nothing half written"


def test_curves_mark_the_best_epoch_and_leave_out_what_is_no_number():
    history = {"loss": [1.0, 0.5], "val_loss": [float("nan"), 0.4], "learning_rate": [1e-3, 1e-3]}
    plain, marked = (draw_progress("restorer", history, best, 4) for best in (None, 1))
    assert plain.shape == marked.shape
    assert plain.shape[1] < draw_progress("lungs", {**history, "dice": [0.1, 0.2]}, None, 4).shape[1]
    columns = np.flatnonzero((plain != marked).any((0, 2)))
    panels = [columns[(columns > left) & (columns < left + WIDTH - 200)] for left in (MARGIN, MARGIN + WIDTH)]
    for left, mine in zip((MARGIN, MARGIN + WIDTH), panels, strict=True):
        assert mine.tolist() == [left + LEFT + round((WIDTH - MARGIN - LEFT) / 3)], "the second epoch of four"


def test_each_source_has_its_dice_and_all_of_them_theirs(tmp_path):
    """One pass over the samples of each gives what a pass over all would; who has nothing to find has no Dice."""
    network = compiled(build(replace(SETTINGS, norm=None), 16), SETTINGS, "dice+ce")
    rng = np.random.default_rng(0)
    x = rng.random((11, 16, 16, 1)).astype(np.float32)
    truth = np.stack([x[..., 0] > 0.6, np.ones(x.shape[:3])], -1).astype(np.float32)
    truth[8:, ..., 0] = 0
    plan = SimpleNamespace(validation=(x, truth), validated=("a",) * 5 + ("b",) * 3 + ("clean",) * 3)
    parts = parts_of(plan)
    logs = validate(network, parts, 4)
    whole = network.evaluate(x, truth, batch_size=4, verbose=0, return_dict=True)
    assert logs["val_dice"] == pytest.approx(whole["dice"], abs=1e-6)
    assert set(logs) == {"val_loss", "val_dice", "val_dice_a", "val_dice_b"}
    for name, of in (("a", slice(0, 5)), ("b", slice(5, 8))):
        alone = network.evaluate(x[of], truth[of], batch_size=4, verbose=0, return_dict=True)
        assert logs[f"val_dice_{name}"] == pytest.approx(alone["dice"], abs=1e-6)
    assert "val_dice_a" not in validate(network, parts[:1], 4), "of one source it would be the same again"
    assert Examples.of(parts, "lungs").sources == ("a", "a", "b", "b", "clean", "clean")
    assert Examples.of(parts, "restorer") is None


def test_what_an_earlier_version_did_not_measure_is_no_number():
    progress = Progress(epoch=2, history={"loss": [1.0, 0.9]})
    progress.end_epoch({"loss": 0.8, "val_dice_ma": 0.5}, True, 0.5, False)
    assert progress.history["loss"] == [1.0, 0.9, 0.8]
    np.testing.assert_equal(progress.history["val_dice_ma"], [np.nan, np.nan, 0.5])


def test_an_example_shows_in_three_colours_what_is_right_false_and_missed():
    truth, answer = np.zeros((16, 16, 2), np.float32), np.zeros((16, 16, 1), np.float32)
    truth[..., 1] = 1
    truth[4:12, 2:8, 0] = 1
    answer[4:12, 5:14] = 0.9
    drawn = tile(np.full((16, 16, 1), 0.5, np.float32), truth, answer, "ma").astype(int)
    grey = drawn[200, 8]
    assert (drawn[128, 50] - grey).argmin() == 1, "missed: purple"
    assert (drawn[128, 104] - grey).argmax() == 1, "right: green"
    assert (drawn[128, 180] - grey).argmin() == 2, "false: orange"
    truth[..., 1] = 0
    assert len(np.unique(tile(np.full((16, 16, 1), 0.5, np.float32), truth, answer, "")[30:, :250])) == 1, "not known"


def test_a_full_disk_is_told_when_the_events_of_an_epoch_are_written():
    """By the call that wrote, not by a thread: /dev/full takes nothing."""
    events = EpochEvents.__new__(EpochEvents)
    from tensorboardX import RecordWriter

    events._now, events._file = lambda: 0.0, RecordWriter("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        events.add(1, {"loss": 1.0})
    events.close()


def test_events_need_no_framework(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom covct.training.events import EpochEvents\n"
        "assert 'tensorboardX' not in sys.modules\n"
        f"EpochEvents(Path({str(tmp_path)!r}), {{'loss': [1.0]}}).close()\n"
        "print(sorted({'torch', 'tensorflow', 'keras', 'jax'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_finished_training_is_resumed_to_the_same_card_and_trained_again_when_asked(data, tmp_path):
    settings, out = replace(SETTINGS, epochs=1), tmp_path / "out"
    first = train(settings, data, out, resume=True)
    steps = []
    again = train(settings, data, out, resume=True, report=lambda e: steps.append(e) if e["event"] == "step" else None)
    assert (again.scores, again.threshold, steps) == (first.scores, first.threshold, [])
    train(settings, data, out, report=lambda e: steps.append(e) if e["event"] == "step" else None)
    assert len(steps) == 5
    assert read_card(out / "lungs.json").training["ema"] == 0.9
    [row] = csv.DictReader((out / "lungs.csv").read_text().splitlines())
    assert row["epoch"] == "1"
    assert events_of(out / "tensorboard" / "lungs") == [
        {name: pytest.approx(float(value), rel=1e-6) for name, value in row.items() if name != "epoch"}
    ]


def test_a_loss_that_is_no_number_names_the_samples_and_keeps_the_last_checkpoint(data, tmp_path, monkeypatch):
    settings = replace(SETTINGS, split="none", threshold=0.5)
    monkeypatch.setitem(plans.PLANS, "lungs", lambda *args: tiny_plan(*args, spoiled=("c", 4)))
    seen = []
    with pytest.raises(NotANumber) as raised:
        train(settings, data, tmp_path / "out", checkpoint_steps=1, report=seen.append)
    message = str(raised.value)
    steps = sum(event["event"] == "step" for event in seen)
    assert f"epoch {steps // 5 + 1}, step {steps % 5 + 1}: the loss is nan" in message
    hashed = hashlib.sha256(b"c").hexdigest()[:8]
    assert f"ma {hashed} slice 4 (its image contain NaN or infinite values)" in message
    assert message.count("no numbers)") < message.count("slice")
    kept = checkpoints.read_checkpoint(tmp_path / "out" / "checkpoints" / "lungs")
    if steps:
        assert all(np.isfinite(array).all() for array in kept.arrays.values())
    assert not (tmp_path / "out" / "lungs.keras").exists()


def test_a_gradient_that_is_no_number_is_found_before_the_next_batch_is_blamed(data, tmp_path, monkeypatch):
    """The root of nothing: its value is 0, its slope infinite, and 0 times that is no number."""
    from covct.training import losses

    def rooted(truth, prediction):
        return keras.ops.mean(keras.ops.sqrt(prediction * 0.0))

    monkeypatch.setitem(losses.LOSSES, "rooted", rooted)
    with pytest.raises(NotANumber, match=r"epoch 1, step 1: the loss is 0, its gradient is not finite"):
        train(replace(SETTINGS, loss="rooted"), data, tmp_path / "out")


def test_full_disk_at_a_checkpoint_leaves_the_one_before(tmp_path):
    first = checkpoints.write_checkpoint(tmp_path, 1, {"a": np.arange(3)}, {"n": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OutputNotWritable, match="cannot write results"):
            checkpoints.write_checkpoint(tmp_path, 2, {"a": np.arange(3000)}, {"n": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [first]
    assert checkpoints.read_checkpoint(tmp_path).state["n"] == 1


def test_two_checkpoints_are_kept_and_a_damaged_one_falls_back_on_the_other(tmp_path):
    assert checkpoints.read_checkpoint(tmp_path) is None
    paths = [checkpoints.write_checkpoint(tmp_path, n, {"a": np.full(3, n)}, {"n": n}) for n in (1, 2, 10)]
    assert sorted(tmp_path.iterdir()) == sorted(paths[1:])
    paths[2].write_bytes(paths[2].read_bytes()[:-7])
    found = checkpoints.read_checkpoint(tmp_path)
    assert (found.state["n"], found.arrays["a"].tolist()) == (2, [2, 2, 2])
    paths[1].write_bytes(b"")
    with pytest.raises(checkpoints.CheckpointError, match="no checkpoint is intact"):
        checkpoints.read_checkpoint(tmp_path)


def test_a_checkpoint_runs_no_code(tmp_path):
    """An object array would be a pickle: it is not read, whatever its hash."""
    np.savez(tmp_path / "x.npz", **{"state.json": np.array([{"format": 1}], dtype=object)})
    contents = (tmp_path / "x.npz").read_bytes()
    (tmp_path / f"step-000000001.{hashlib.sha256(contents).hexdigest()[:16]}.npz").write_bytes(contents)
    with pytest.raises(checkpoints.CheckpointError, match="allow_pickle"):
        checkpoints.read_checkpoint(tmp_path)


def test_only_the_best_weights_that_a_kept_checkpoint_names_stay(data, tmp_path):
    train(SETTINGS, data, tmp_path / "out")
    folder = tmp_path / "out" / "checkpoints" / "lungs"
    named = {checkpoints.read_arrays(p).state["progress"]["best_file"] for p in folder.glob("step-*")}
    assert {p.name for p in folder.glob("best-*")} == named


@pytest.mark.parametrize(
    ("name", "start", "middle", "end"),
    [
        ("constant", 1, 1, 1),
        ("plateau", 1, 1, 1),
        ("exponential", 1, 0.1, 0.01),
        ("cosine", 0.1, 0.5868, 0),
        ("cosine-restarts", 1, 0.9625, 0),
        ("one-cycle", 0.04, 0.8118, 0.0001),
    ],
)
def test_learning_rates_begin_and_end_where_their_schedule_says(name, start, middle, end):
    rate = SCHEDULES[name]
    assert [rate(0, 1001), rate(1000, 1001)] == pytest.approx([start, end], abs=2e-3)
    assert rate(500, 1001) == pytest.approx(middle, abs=2e-3)
    assert all(0 <= rate(step, 10) <= 1 for step in range(10))


def test_cosine_restarts_at_one_and_three_sevenths():
    rates = [SCHEDULES["cosine-restarts"](step, 70) for step in range(70)]
    assert [step for step in range(1, 70) if rates[step] > rates[step - 1]] == [10, 30]


def test_running_average_forgets_slowly_and_is_young_at_first():
    average = RunningAverage(0.99, [np.zeros(1, np.float32)])
    average.take([np.ones(1, np.float32)], EVERY)
    young = (9 / 18) ** EVERY
    assert average.arrays[0][0] == pytest.approx(1 - young, rel=1e-5)
    before = average.arrays[0][0]
    average.take([np.zeros(1, np.float32)], 10_000)
    assert average.arrays[0][0] == pytest.approx(before * 0.99**EVERY, rel=1e-5)


def test_progress_waits_for_something_better_and_halves_on_a_plateau():
    progress = Progress()
    for score in (0.5, 0.6, 0.6, 0.55, 0.4):
        progress.end_epoch({"loss": 1.0}, progress.is_better(score, False), score, plateau=True)
    assert (progress.best_epoch, progress.best_score, progress.waited, progress.halvings) == (1, 0.6, 3, 1)
    assert not progress.is_better(float("nan"), False)
    assert progress.is_better(0.5, lower_is_better=True)


def test_training_ends_when_nothing_gets_better(data, tmp_path):
    """A learning rate of nothing: the first epoch is the best."""
    settings = replace(SETTINGS, epochs=20, learning_rate=0.0, ema=0, patience=2, optimizer="sgd", samples_per_epoch=4)
    card = train(settings, data, tmp_path / "out")
    assert card.training["epochs"] < 20
    assert card.training["epochs"] == card.training["best_epoch"] + 2


def test_time_left_is_counted_without_the_first_step():
    pace = Pace()
    for now in (100.0, 102.0, 104.0):
        pace.tick(now)
    assert pace.per_second(104.0) == 0.5
    assert pace.seconds_left(104.0, 10) == 20


def test_batches_come_in_order_whatever_the_threads():
    def draw(rng, origins=None):
        return rng.random((2, 2)), rng.random((2, 2))

    places = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    expected = [draw_batch(draw, 2, 7, *place) for place in places]
    for threads in (1, 3):
        got = list(batches(draw, 2, 7, iter(places), threads))
        assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(expected, got, strict=True))


def test_a_training_that_starts_from_weights_draws_samples_that_these_have_not_seen():
    assert sample_seed(3, None) == 3
    first, second = (sample_seed(3, letter * 64) for letter in "ab")
    assert len({3, first, second}) == 3
    assert sample_seed(3, "a" * 64) == first


def test_folds_deal_every_patient_once_and_alike_for_every_task():
    patients = [f"p{number % 14}" for number in range(200)]
    folds = assign_folds(patients, 5, seed=3)
    assert folds == assign_folds(patients[::-2] + patients, 5, seed=3)
    sizes = [list(folds.values()).count(fold) for fold in range(5)]
    assert sorted(sizes) == [2, 3, 3, 3, 3]
    assert folds != assign_folds(patients, 5, seed=4)
    asked = Settings("lungs", 1, 8, folds=5, seed=3)
    held = [held_out(patients, replace(asked, fold=fold)) for fold in range(5)]
    assert (np.sum(held, 0) == 1).all()
    with pytest.raises(UsageError, match="got 3"):
        assign_folds(["a", "b", "c"], 5, seed=0)


def test_folds_stay_as_they_were_written(tmp_path):
    settings = Settings("lungs", 1, 8, folds=2)
    keep_folds(tmp_path, {"ma": ["a", "b", "c"]}, settings)
    keep_folds(tmp_path, {"lctsc": ["x", "y"]}, settings)
    stored = json.loads((tmp_path / "folds.json").read_text())
    assert (stored["folds"], stored["sources"].keys()) == (2, {"ma", "lctsc"})
    keep_folds(tmp_path, {"ma": ["a", "b", "c"]}, settings)
    with pytest.raises(UsageError, match="source ma has other patients"):
        keep_folds(tmp_path, {"ma": ["a", "b", "d"]}, settings)
    with pytest.raises(UsageError, match="holds 2 folds with seed 0, wanted 3 folds with seed 0|wanted 3 with seed 0"):
        keep_folds(tmp_path, {"ma": ["a", "b", "c"]}, replace(settings, folds=3))


@pytest.mark.parametrize(
    ("text", "by", "share"),
    [("90/10", "patient", 0.1), ("70/30", "patient", 0.3), ("0.2", "patient", 0.2), ("slice", "slice", 0.3),
     ("72/18/10", "patient", 0.2), ("slice:80/20", "slice", 0.2), ("none", "none", 0)],
)  # fmt: skip
def test_splits_as_they_are_written(text, by, share):
    split = parse_split(text)
    assert (split.by, pytest.approx(split.share)) == (by, share)


@pytest.mark.parametrize(
    "text",
    ["", "1", "0/0", "100/0", "120/20", "72/18", "72/18/9", "72/28/0", "slice:72/18/10", "70/10/10/10", "slices",
     "volume", "slice:", "nan"],
)  # fmt: skip
def test_splits_that_mean_nothing(text):
    if text == "slice:":
        assert parse_split(text).share == 0.3
        return
    with pytest.raises(UsageError, match="wanted 90/10"):
        parse_split(text)


def test_a_split_by_slice_says_whom_it_leaks_and_marks_the_card(data, tmp_path):
    told = []
    card = train(replace(SETTINGS, epochs=1, split="slice"), data, tmp_path / "out", report=told.append)
    assert "3 of 4 patients lie on both sides" in told[1]["text"]
    assert card.limits.startswith("Split by slice: 3 of 4 patients")
    assert card.training["split"] == "slice"
    assert card.training["held_out_patients"] == {"ma": []}, "whoever starts from it must know that all were seen"


def test_a_card_says_whom_its_ancestors_learned_from(data, tmp_path):
    """Of three networks, each started from the one before, the last knows the first one's patients."""
    settings, start, told = replace(SETTINGS, epochs=1, samples_per_epoch=4), None, []
    for name in ("a", "b", "c"):
        card = train(settings, data, tmp_path / name, initial=start, report=told.append)
        start = tmp_path / name / "lungs.json"
    chain = read_card(start).training["ancestors"]
    assert [one["sha256"] for one in chain] == [file_sha256(tmp_path / name / "lungs.keras") for name in ("b", "a")]
    assert all(one["held_out_patients"] == card.training["held_out_patients"] for one in chain)
    assert all(len(one["learned_patients"]["ma"]) == 3 for one in (card.training, *chain))
    assert not any("no card says" in one.get("text", "") for one in told)
    with pytest.raises(UsageError, match="or started from a network that was"):
        train(replace(settings, seed=1), data, tmp_path / "d", initial=start)


def test_a_patient_of_two_sources_cannot_be_on_both_sides():
    """Folds are dealt by source, so a second source of other patients puts a shared one elsewhere."""
    settings = Settings("lungs", 1, 8, split="0.5")
    with pytest.raises(UsageError, match="1 patients would be on both sides of the split: a"):
        for seed in range(20):
            plans.split_sources(
                [tiny_training.slices("ma"), tiny_training.slices("lctsc", ("a", "x"))], replace(settings, seed=seed)
            )


def test_patients_left_out_are_on_neither_side_and_on_the_card():
    """To be judged afterwards, also by weights that are trained on everybody else."""
    parts = [tiny_training.slices("ma", ("a", "b", "c")), tiny_training.slices("lctsc", ("x",))]
    settings = Settings("lungs", 1, 8, split="none", threshold=0.5, leave_out=("b", "x"))
    parted = plans.split_sources(parts, settings)
    assert [set(part.patients) for part in parted.train_sets] == [{"a", "c"}]
    assert not any(len(part) for part in parted.check_sets)
    assert parted.held_out == {"ma": ["b"], "lctsc": ["x"]}
    with pytest.raises(UsageError, match="--leave-out nobody: no source has such a patient"):
        plans.split_sources(parts, replace(settings, leave_out=("nobody",)))


def test_a_split_of_three_parts_leaves_patients_out_for_a_test():
    parts = [tiny_training.slices("ma", tuple("abcdefghij")), tiny_training.slices("lctsc", tuple("uvwxyz"))]
    parted = plans.split_sources(parts, Settings("lungs", 1, 8, split="72/18/10"))
    for source, trained, checked in zip(("ma", "lctsc"), parted.train_sets, parted.check_sets, strict=True):
        validated, told = set(checked.patients), set(parted.held_out[source])
        assert len(told - validated) == 1, "a tenth is left out, and held out as the others are"
        assert not set(trained.patients) & told
    assert [len(set(part.patients)) for part in parted.train_sets] == [7, 4]
    again = plans.split_sources(parts, Settings("infection", 1, 8, split="72/18/10"))
    assert again.held_out == parted.held_out, "the same for every task"


def test_all_folds_come_to_a_mean_and_a_spread(data, tmp_path):
    settings = replace(SETTINGS, epochs=1, folds=2, ema=0)
    cards = [train(replace(settings, fold=fold), data, tmp_path / "out") for fold in (0, 1)]
    assert set(cards[0].training["held_out_patients"]["ma"]) ^ set(cards[1].training["held_out_patients"]["ma"]) == {
        "a", "b", "c", "d"
    }  # fmt: skip
    summary = summarise(tmp_path / "out", "lungs", 2)
    values = [card.scores["validation_dice"] for card in cards]
    assert summary["done"] == [0, 1]
    assert summary["mean"]["validation_dice"] == pytest.approx(np.mean(values), abs=1e-4)
    assert summary["spread"]["validation_dice"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert json.loads((tmp_path / "out" / "lungs-folds.json").read_text()) == summary

    # weights trained on everybody say what the folds said, and whose scores they are
    threshold = threshold_of(tmp_path / "out", "lungs")
    assert threshold == pytest.approx(np.mean([card.threshold for card in cards]), abs=0.005)
    final = replace(settings, folds=0, split="none", threshold=threshold)
    card = credit(train(final, data, tmp_path / "final"), tmp_path / "out", tmp_path / "final")
    assert card == read_card(tmp_path / "final" / "lungs.json")
    assert card.scores["folds_validation_dice"] == summary["mean"]["validation_dice"]
    assert card.scores["folds_validation_dice_sd"] == summary["spread"]["validation_dice"]
    assert card.training["cross_validation"]["sha256"] == [one.sha256 for one in cards]
    with pytest.raises(UsageError, match="has size 16, the weights 64: not a cross-validation"):
        credit(card.replaced(size=64), tmp_path / "out", tmp_path / "final")
    with pytest.raises(UsageError, match="0 folds of infection, wanted two or more"):
        threshold_of(tmp_path / "out", "infection")


def test_folds_in_parallel_have_a_gpu_each_and_one_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpus() == ["3", "5"]
    code = (
        "import os, sys, time; time.sleep(0.2); open(sys.argv[1], 'w').write(os.environ['CUDA_VISIBLE_DEVICES']);"
        " sys.exit(int(sys.argv[2]))"
    )
    commands = {n: [sys.executable, "-c", code, str(tmp_path / str(n)), "0" if n != 1 else "15"] for n in range(3)}
    with pytest.raises(FoldFailed, match="fold 1 with exit code 15"):
        run_in_parallel(commands, gpus(), lambda event: as_published(TrainEvent, [event]))
    used = [(tmp_path / str(n)).read_text() for n in range(3)]
    assert set(used[:2]) == {"3", "5"}
    assert used[2] in ("3", "5")


RATES = [float(10.0**power) for power in np.linspace(-6, 0, 61)]


def test_range_test_suggests_where_the_loss_falls_fastest():
    losses = [1 / (1 + np.exp(4 * (np.log10(rate) + 3))) + max(0.0, np.log10(rate) + 1) * 5 for rate in RATES]
    assert suggest(RATES, losses) == pytest.approx(1e-3, rel=0.3)
    with pytest.raises(UsageError, match="never fell"):
        suggest(RATES, [1.0 + n for n in range(61)])


def test_range_test_stays_well_below_the_rate_of_the_least_loss():
    """A loss that collapses at 0.1, where one batch is learned by heart: the steepest fall is next to its end."""
    rng = np.random.default_rng(0)
    losses = [1.5 - 0.1 * np.exp(-((np.log10(rate) + 3) ** 2)) - 0.4 * (rate >= 0.1) for rate in RATES]
    losses = [loss + (rate > 0.3) * 2 + rng.normal(0, 0.02) for loss, rate in zip(losses, RATES, strict=True)]
    smooth = smoothed(RATES, losses)
    assert suggest(RATES, smooth) <= 0.02
    assert np.abs(np.diff(smooth[5:40])).max() < np.abs(np.diff(losses[5:40])).max() / 3


def test_find_lr_writes_its_plot_and_trains_nothing(data, tmp_path):
    out, told = tmp_path / "out", []
    found = find_learning_rate(SETTINGS, data, out, steps=40, report=told.append)
    assert 1e-6 < found.suggestion < 1
    assert found.trials[-1].trains
    assert found.trials[-1].last < found.trials[-1].first
    assert told[-1] == {"event": "note", "text": sentence_of(found.trials[-1])}
    svg = (out / "lungs-find-lr.svg").read_text()
    assert svg == draw_plot(found)
    assert svg.count("<polyline") == 1
    assert sorted(path.name for path in out.iterdir()) == ["lungs-find-lr.json", "lungs-find-lr.svg"]
    assert json.loads((out / "lungs-find-lr.json").read_text())["trials"][-1]["rate"] == found.suggestion


def test_find_lr_goes_lower_where_its_rate_does_not_train(data, tmp_path, monkeypatch):
    """A suggestion that is far too high: what it gave is said, and a lower one is tried, from the same beginning."""
    monkeypatch.setattr(find_lr, "suggest", lambda rates, losses: 1e4)
    monkeypatch.setattr(find_lr, "LOWER", 1e6)
    settings = replace(SETTINGS, optimizer="sgd", clip_norm=0)
    found = find_learning_rate(settings, data, tmp_path / "out", steps=40)
    assert [(trial.rate, trial.trains) for trial in found.trials] == [(1e4, False), (1e-2, True)]
    assert "too high, a lower rate is tried" in sentence_of(found.trials[0])
    monkeypatch.setattr(find_lr, "LOWER", 1.0)
    with pytest.raises(UsageError, match="in short trainings at 10000, 10000, .* the loss did not fall"):
        find_learning_rate(settings, data, tmp_path / "none", steps=40)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "mse"}, "no loss is called mse; choose one of"),
        ({"architecture": "vgg"}, "no architecture is called vgg"),
        ({"optimizer": "lion"}, "no optimizer is called lion"),
        ({"folds": 5, "fold": 5}, "fold 5 of 5"),
        ({"norm": "group"}, "tiny has its own normalisation"),
        ({"samples_per_epoch": 3}, "--samples 3: wanted --batch-size 4 or more"),
        ({"split": "none"}, "give --threshold"),
        ({"split": "none", "threshold": 0.5, "patience": 3}, "holds out no patients: --schedule"),
    ],
)
def test_settings_that_do_not_fit(changes, words):
    with pytest.raises(UsageError, match=words):
        check(replace(SETTINGS, **changes))


@pytest.mark.parametrize("choice", ["adam", "adamw", "sgd"])
def test_mixed_precision_trains_and_leaves_float32_weights_and_no_policy_behind(choice, data, tmp_path):
    asked = {"mixed_precision": choice == "adamw", "optimizer": choice, "split": "none", "threshold": 0.4}
    settings = replace(SETTINGS, epochs=1, **asked)
    card = train(settings, data, tmp_path / "out")
    assert keras.mixed_precision.dtype_policy().name == "float32"
    assert card.threshold == 0.4
    assert card.scores == {}
    assert "no scores of its own" in card.limits
    weights_of(tmp_path / "out")


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """A file of ResNet50 weights as published, of a sixteenth of the filters."""
    monkeypatch.setattr(tiny_training, "SIZE", 32)
    network = ARCHITECTURES["deeplabv3-plus"](size=32, base_filters=4)
    with h5py.File(tmp_path / "resnet50_notop.h5", "w") as file:
        for layer in network.layers:
            if layer.name.startswith("conv") and layer.weights:
                for variable in layer.variables:
                    array = np.asarray(variable)
                    colour = np.repeat(array, 3, axis=2) if layer.name == "conv1_conv" else array
                    file[f"{layer.name}/{layer.name}/{variable.name}:0"] = colour
    return tmp_path / "resnet50_notop.h5"


DEEPLAB = replace(SETTINGS, architecture="deeplabv3-plus", base_filters=4)


def test_a_network_starts_from_a_published_backbone_and_its_card_says_of_which(backbone, data, tmp_path):
    """By its hash: the path is of somebody's machine. A training is resumed with the same file only."""
    plan, network, facts = prepare(DEEPLAB, data, tmp_path / "out", None, None, backbone=backbone)
    with h5py.File(backbone) as file:
        wanted = file["conv4_block2_2_conv/conv4_block2_2_conv/kernel:0"][()]
    np.testing.assert_array_equal(network.get_layer("conv4_block2_2_conv").get_weights()[0], wanted)
    started_from = {"sha256": file_sha256(backbone)}
    assert facts["backbone"] == started_from
    card = _card(DEEPLAB, plan, Progress(history={"loss": [0.5]}), "lungs.keras", "0" * 64, facts)
    assert card.training["backbone"] == started_from
    assert "resnet50" not in str(card)


def test_a_backbone_that_does_not_fit_is_refused_before_anything_is_written(backbone, data, tmp_path):
    def refused(settings, **asked):
        with pytest.raises((UsageError, WeightsError)) as refusal:
            train(settings, data, tmp_path / "out", **{"backbone": backbone, **asked})
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".covct"], "the lock alone"
        return str(refusal.value)

    assert "tiny has no ResNet50; wanted --architecture deeplabv3-plus" in refused(SETTINGS)
    assert "wanted only one of them" in refused(DEEPLAB, initial=tmp_path / "lungs.json")
    assert "wanted (7, 7, 1, 8)" in refused(replace(DEEPLAB, base_filters=8))
    assert "nowhere.h5" in refused(DEEPLAB, backbone=tmp_path / "nowhere.h5")


def test_train_on_the_command_line_says_in_a_sentence_what_is_wrong(tmp_path):
    from typer.testing import CliRunner

    from covct import cli

    for arguments, words in (
        (["--fold", "1"], "give --folds"),
        (["--ema", "1.5"], "below 1"),
        (["--backbone", "resnet50.h5"], "unet has no ResNet50"),
        (["--backbone", "resnet50.h5", "--find-lr"], "unet has no ResNet50"),
        ([], "no training data"),
    ):
        result = CliRunner().invoke(cli.app, ["train", "lungs", str(tmp_path), "-o", str(tmp_path / "out"), *arguments])
        assert isinstance(result.exception, UsageError)
        assert words in str(result.exception)


def test_events_are_one_object_a_line_on_stderr(data, tmp_path):
    def events(*more):
        network = ("--architecture", "tiny", "--base-filters", 2, "--batch-size", 4)
        wishes = (*network, "--epochs", 1, "--samples", 16, "--split", 0.25, "--log-format", "json")
        ended = invoke("train", "lungs", data, "-o", tmp_path / "out", *wishes, *more)
        assert ended.exit_code == 0, ended.exception
        return [event["event"] for event in events_in(ended.stderr, TrainEvent)]

    assert events("--find-lr") == ["note", "step", "note"], "what is read, one step in half a minute, what it gave"
    assert events() == ["note", "started", "step", "epoch", "note"]
    assert events("--resume") == ["note", "note", "note"]


@pytest.fixture
def trained(tiny, tmp_path):
    """A weights folder as training leaves it before the network is converted."""
    folder = tmp_path / "trained"
    folder.mkdir()
    arguments = {"size": 32, "base_filters": 2}
    ARCHITECTURES["tiny"](**arguments).save(folder / "lungs.keras")
    card = threshold_card("lungs", file_sha256(folder / "lungs.keras"))
    write_card(card.replaced(size=32, architecture=Call(name="tiny", arguments=arguments)), folder)
    return folder


def end_of_training(trained, folder):
    """The notes of what comes after the last epoch, and the card."""
    shutil.copytree(trained, folder)
    events = []
    _convert(folder / "lungs.json", "lungs", events.append)
    assert {event["event"] for event in events} == {"note"}
    return [event["text"] for event in events], load_network(folder / "lungs.json")[0]


def test_a_trained_network_is_converted_for_openvino_too(trained, tmp_path):
    pytest.importorskip("openvino")
    [text], card = end_of_training(trained, tmp_path / "weights")
    assert text == "lungs.json: converted for OpenVINO too"
    assert card.openvino.source_sha256 == card.sha256
    assert not why_not_converted({tmp_path / "weights" / "lungs.json": card})


def test_without_openvino_a_training_ends_with_its_network_and_a_sentence(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "is_installed", lambda package: False)
    [text], card = end_of_training(trained, tmp_path / "weights")
    assert card == read_card(trained / "lungs.json")
    assert text == (
        "lungs.json: not converted for OpenVINO (it is not installed: pip install 'covct[cpu]', then covct export "
        "openvino); scans on a CPU take TensorFlow"
    )


def test_a_conversion_that_fails_takes_nothing_of_the_training(trained, tmp_path, monkeypatch):
    pytest.importorskip("openvino")

    def another(card, network, converted):
        raise WeightsError("the network gives other probabilities")

    monkeypatch.setattr(to_openvino, "compare", another)
    [text], card = end_of_training(trained, tmp_path / "weights")
    assert "not converted for OpenVINO (the network gives other probabilities)" in text
    assert card == read_card(trained / "lungs.json")
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["lungs.json", "lungs.keras"]


def test_group_normalisation_is_built_and_named_in_the_card():
    settings = Settings("infection", 1, 8, norm="group", base_filters=2)
    assert arguments_of(settings, 32)["norm"] == "group"
    kinds = {type(layer).__name__ for layer in build(settings, 32).layers}
    assert "GroupNormalization" in kinds and "BatchNormalization" not in kinds


def test_a_score_of_every_source_beside_that_of_all():
    """Half of "b" is missed; "c" has nothing to find, and a quarter of it is called."""
    label = np.zeros((3, 16, 16))
    label[:2, :8] = 1
    called = label.copy()
    called[1, :4] = 0
    called[2, :4] = 1
    network = Network(threshold_card("infection"), lambda slices: slices[..., 0])
    truth = np.stack([label, np.ones_like(label)], -1).astype(np.float32)
    _, scores = choose_threshold(network, (called[..., None].astype(np.float32), truth), ("a", "b", "c"))
    assert scores["validation_dice_a"] == 1
    assert scores["validation_dice_b"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["validation_called_c"] == 0.25
    assert scores["validation_dice"] == pytest.approx(0.75, abs=1e-4)


def test_a_network_of_neighbours_starts_as_the_network_of_slices_it_comes_from():
    plain = build(Settings("infection", 1, 8, base_filters=2), 32)
    wide = build(Settings("infection", 1, 8, base_filters=2, neighbours=1), 32)
    wide.set_weights(started(wide, plain))
    stack = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    alone = plain.predict(stack[..., 1:2], verbose=0)
    np.testing.assert_allclose(wide.predict(stack, verbose=0), alone, atol=1e-6)
    assert started(plain, wide) is None
    assert started(build(Settings("infection", 1, 8, base_filters=4), 32), plain) is None
    assert started(build(Settings("infection", 1, 8, architecture="segnet"), 32), plain) is None
