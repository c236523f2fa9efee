"""What computes the networks: OpenVINO where their converted forms fit, TensorFlow else, and the report says which."""

import os
import shutil
import subprocess
import sys

import jsonschema
import numpy as np
import pytest

from covct.commands.quiet import quiet_tensorflow
from covct.errors import DeviceMissing, UsageError, WeightsError
from covct.networks import converted, runtimes
from covct.networks.cards import Call, default_weights_folder, file_sha256, read_card, tasks_in, write_card
from covct.networks.converted import load_converted_networks, openvino, read_converted
from covct.networks.devices import Wish
from covct.networks.enlarging import enlarge_at_once
from covct.networks.processors import adds_bfloat16, processors_at_hand
from covct.networks.runtimes import Choice, choose, foreseen
from support.checkout import PYTHONPATH
from support.converted import SIDE, make_converted, write_between
from support.example_report import SCHEMA
from support.running import invoke, read_json
from support.thresholds import threshold_card

PRECISE = '<rt_info><attribute name="precise" version="0" /></rt_info>'  # OpenVINO's mark of what stays in float32
NO_TENSORFLOW = """
import sys
from covct.cli import app
try:
    app()
except SystemExit as ended:
    code = ended.code
loaded = {name.split(".")[0] for name, module in sys.modules.items() if module}
assert "openvino" in loaded, "the networks ran"
assert not loaded & {"keras", "tensorflow", "h5py", "tensorboardX", "openvino_telemetry"}, loaded
sys.exit(code)
"""


@pytest.fixture
def folder(tmp_path):
    return make_converted(tmp_path / "weights")


def slices(count, seed=0):
    return np.random.default_rng(seed).random((count, SIDE, SIDE, 1), np.float32)


# A scan on it


def test_a_scan_on_a_cpu_loads_no_tensorflow_and_says_what_computed(phantom_series, tmp_path):
    out = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", NO_TENSORFLOW, "scan", phantom_series, "-o", out, "--device", "cpu", "--formats", "seg"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "COVCT_WEIGHTS": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    [report] = [read_json(path) for path in out.glob("*/*/report.json")]
    jsonschema.validate(report, SCHEMA)
    device = report["run"]["device"]
    assert (device["kind"], device["runtime"], device["fallbacks"]) == ("cpu", "openvino", [])
    assert device["precision"] in ("bfloat16", "float32") and device["precision"] in device["name"]
    assert report["regions"]["lungs"]["volume_ml"] > 1000


def test_the_same_slices_give_the_same_bits_in_any_run_and_any_company(folder):
    seen = slices(11)
    first, again = load_converted_networks(folder), load_converted_networks(folder)
    said = first.lungs.predict(seen)
    assert said.shape == (11, SIDE, SIDE) and said.dtype == np.float32 and 0.2 < said.mean() < 0.8
    np.testing.assert_array_equal(again.lungs.predict(seen), said)
    np.testing.assert_array_equal(first.lungs.predict(seen[::-1])[::-1], said, "whichever batch it is in")
    np.testing.assert_array_equal(first.lungs.predict(seen[7:8]), said[7:8], "and alone")
    assert first.lungs.predict(seen[:0]).shape == (0, SIDE, SIDE)


def test_without_bfloat16_it_computes_in_float32_and_says_so(folder, monkeypatch):
    seen = slices(3)
    as_it_is = load_converted_networks(folder)
    monkeypatch.setattr(converted, "adds_bfloat16", lambda: False)
    exact = load_converted_networks(folder)
    assert exact.used().precision == "float32" and exact.used().name == "cpu (openvino, float32)"
    assert np.abs(exact.lungs.predict(seen) - as_it_is.lungs.predict(seen)).max() < 0.1


def enlarged(rows, columns, order):
    """Slices repeated as keras' export does it, as an OpenVINO model; channels lie in the middle to begin with."""
    ov = openvino()
    ops = ov.opset13

    def numbers(*values):
        return ops.constant(list(values), ov.Type.i64)

    seen = ops.parameter([-1, 2, 4, 6], ov.Type.f32)
    tall = ops.tile(ops.unsqueeze(seen, numbers(2)), numbers(1, 1, rows, 1, 1))
    tall = ops.reshape(ops.transpose(tall, numbers(*order)), numbers(-1, rows * 4, 6, 2), special_zero=False)
    wide = ops.tile(ops.unsqueeze(tall, numbers(3)), numbers(1, 1, 1, columns, 1))
    wide = ops.reshape(wide, numbers(-1, rows * 4, columns * 6, 2), special_zero=False)
    return ov.Model([ops.transpose(wide, numbers(0, 3, 1, 2))], [seen], "enlarged")


@pytest.mark.parametrize(
    ("rows", "columns", "order", "replaced"),
    [(2, 2, (0, 3, 2, 4, 1), True), (3, 2, (0, 3, 2, 4, 1), True), (2, 2, (0, 2, 3, 4, 1), False)],
)
def test_repeated_rows_and_columns_are_one_operation_with_the_same_numbers(rows, columns, order, replaced):
    seen = np.random.default_rng(0).random((3, 2, 4, 6), np.float32)
    before, after = enlarged(rows, columns, order), enlarged(rows, columns, order)
    enlarge_at_once(after)
    kinds = {operation.get_type_name() for operation in after.get_ops()}
    assert ("Interpolate" in kinds, "Tile" in kinds) == (replaced, not replaced)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    said, wanted = (openvino().Core().compile_model(model, "CPU", exact)({0: seen})[0] for model in (after, before))
    np.testing.assert_array_equal(said, wanted)


def test_the_shipped_networks_repeat_nothing_once_they_are_loaded():
    weights = default_weights_folder()
    for task in ("lungs", "infection"):
        path = weights / f"{task}.json"
        model = read_converted(openvino().Core(), path, read_card(path))
        enlarge_at_once(model)
        assert "Tile" not in {operation.get_type_name() for operation in model.get_ops()}


@pytest.mark.skipif(not adds_bfloat16(), reason="this processor computes the whole network in float32")
def test_the_infection_network_takes_hu_in_exactly_and_is_closer_to_float32_for_it():
    """HU rounded to eight bits are 2 to 5 HU apart, which is what faint opacities come and go by."""
    path = default_weights_folder() / "infection.json"
    card = read_card(path)
    graph, arrays = (path.with_name(name) for name in (card.openvino.graph, card.openvino.arrays))
    seen = 0.15 + 0.1 * np.random.default_rng(0).random((2, card.size, card.size, card.channels), np.float32)

    def said(text, precision):
        core = openvino().Core()
        model = core.read_model(model=text.encode(), weights=arrays.read_bytes())
        return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})({0: seen})[0]

    marked = graph.read_text()
    plain = marked.replace(PRECISE, "")
    assert marked.count(PRECISE) == 5, "the transposition, two convolutions and what lies between them"
    exact = said(marked, "f32")
    off, off_plain = (np.abs(said(text, "bf16") - exact).mean() for text in (marked, plain))
    assert 0 < off < 0.7 * off_plain


# Another network is refused


def broken(folder, how):
    path = folder / "lungs.json"
    card = read_card(path)
    if how == "graph":
        (folder / "lungs.xml").write_text((folder / "lungs.xml").read_text().replace('"lungs"', '"other"'))
    elif how == "arrays":
        shutil.copy(folder / "infection.bin", folder / "lungs.bin")
        (folder / "lungs.bin").write_bytes((folder / "lungs.bin").read_bytes() + b"x")
    elif how == "missing":
        (folder / "lungs.bin").unlink()
    elif how == "none":
        write_card(card.replaced(openvino=None), folder)
    elif how == "other weights":
        (folder / "lungs.keras").write_bytes(b"trained anew")
        write_card(card.replaced(sha256=file_sha256(folder / "lungs.keras")), folder)
    elif how == "another shape":
        write_card(card.replaced(size=128), folder)
    elif how == "not a network":
        (folder / "lungs.xml").write_text("<net")
        given = card.openvino.replaced(graph_sha256=file_sha256(folder / "lungs.xml"))
        write_card(card.replaced(openvino=given), folder)
    elif how == "an operation":
        write_card(card.replaced(openvino=write_between(card, folder, 0, 1, "erf")), folder)
    return path


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("graph", "lungs.xml: sha256 is .*: an altered or another converted network"),
        ("arrays", "lungs.bin: sha256 is .*: an altered or another converted network"),
        ("missing", "lungs.bin: the converted network cannot be read"),
        ("none", "names no converted network; covct export openvino adds one"),
        ("other weights", "was made of other weights .* covct export openvino makes it anew"),
        ("another shape", "not the card's network: the network takes .64, 64, 1., the card's .* .128, 128, 1."),
        ("not a network", "lungs.xml: not the card's network: "),
        ("an operation", "the operation Erf is in no network of covct"),
    ],
)
def test_a_converted_network_that_does_not_belong_to_its_card_is_refused(folder, how, sentence):
    path = broken(folder, how)
    with pytest.raises(WeightsError, match=sentence) as raised:
        read_converted(openvino().Core(), path, read_card(path))
    assert "\n" not in str(raised.value) and raised.value.exit_code == 10


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [("graph", 10, "altered or another"), ("none", 10, "lungs.json names no converted network"), ("gone", 13, "pip")],
)
def test_openvino_that_is_asked_for_and_cannot_be_ends_the_scan_with_a_sentence(
    folder, how, code, words, series_folder, tmp_path, monkeypatch
):
    broken(folder, how)
    if how == "gone":
        monkeypatch.setattr(runtimes, "is_installed", lambda name: False)
    result = invoke("scan", series_folder, "-o", tmp_path / "out", "--weights", folder, "--runtime", "openvino")
    assert result.exception.exit_code == code
    assert words in str(result.exception)


def test_openvino_on_a_gpu_is_a_contradiction(folder, series_folder, tmp_path):
    for option in (("--device", "gpu"), ("--require-gpu",)):
        result = invoke("scan", series_folder, "-o", tmp_path, "--weights", folder, "--runtime=openvino", *option)
        assert isinstance(result.exception, UsageError)


# The choice


@pytest.mark.parametrize(
    ("runtime", "on_gpu", "installed", "tasks", "choice"),
    [
        ("auto", False, True, ("lungs", "infection"), Choice("openvino")),
        ("auto", True, True, ("lungs", "infection"), Choice("tensorflow")),
        ("auto", False, False, ("lungs", "infection"), Choice("tensorflow", "openvino: not installed")),
        ("auto", False, True, ("lungs",), Choice("tensorflow", "openvino: infection.json names no converted network")),
        ("tensorflow", False, True, ("lungs", "infection"), Choice("tensorflow")),
        ("openvino", False, True, ("lungs", "infection"), Choice("openvino")),
    ],
)
def test_one_runtime_for_all_networks(runtime, on_gpu, installed, tasks, choice, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "is_installed", lambda name: installed)
    assert choose(runtime, make_converted(tmp_path / "weights", tasks), on_gpu) == choice


@pytest.mark.parametrize(
    ("wish", "wanted", "tasks", "seen"),
    [
        ("auto", "cpu", ("lungs", "infection"), "openvino"),
        ("auto", "gpu", ("lungs", "infection"), "tensorflow"),
        ("tensorflow", "cpu", ("lungs", "infection"), "tensorflow"),
        ("openvino", "cpu", ("lungs",), "tensorflow"),
    ],
)
def test_memory_is_counted_for_the_runtime_foreseen_and_for_tensorflow_in_doubt(wish, wanted, tasks, seen, tmp_path):
    folder = make_converted(tmp_path / "weights", tasks)
    assert foreseen(wish, folder, Wish(wanted), False) == seen
    assert foreseen(wish, tmp_path / "none", Wish(wanted), False) == "tensorflow"


def test_files_that_were_left_behind_are_named_and_tensorflow_computes(folder):
    """A card and its .keras alone were all of a network before."""
    (folder / "infection.bin").unlink()
    assert choose("auto", folder, False) == Choice("tensorflow", "openvino: infection.bin is missing")


@pytest.mark.parametrize(
    ("wish", "visible", "driver", "may"),
    [
        (Wish("auto"), None, True, True), (Wish("auto"), None, False, False), (Wish("auto"), "-1", True, False),
        (Wish("auto"), "", True, False), (Wish("cpu"), None, True, False), (Wish("gpu", 0), None, False, True),
    ],
)  # fmt: skip
def test_a_gpu_that_may_be_there_leaves_the_choice_to_keras(wish, visible, driver, may, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "DRIVER", (tmp_path if driver else tmp_path / "none",))
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert runtimes.may_have_gpu(wish, environment) is may


def test_what_needs_tensorflow_says_what_to_install():
    sentence = r"needs TensorFlow, and keras is not installed: pip install 'covct\[cpu\]'"
    with pytest.raises(DeviceMissing, match=sentence), quiet_tensorflow():
        raise ModuleNotFoundError("No module named 'keras'", name="keras")
    with pytest.raises(ModuleNotFoundError), quiet_tensorflow():
        raise ModuleNotFoundError("No module named 'ours'", name="ours")


# Processors


@pytest.mark.parametrize(
    ("group", "files", "count"),
    [
        ("0::/a", {"a/cpu.max": "150000 100000"}, 2),
        ("0::/a", {"cpu.max": "100000 100000", "a/cpu.max": "max 100000"}, 1),
        ("0::/a", {"a/cpu.max": "max 100000"}, 8),
        ("4:cpu,cpuacct:/a", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu:/a", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("4:memory:/a", {"memory/cpu.max": "100000 100000"}, 8),
    ],
)
def test_threads_are_as_many_as_the_container_has_processors(group, files, count, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(group + "\n")
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    assert processors_at_hand(tmp_path, tmp_path / "groups") == count


@pytest.mark.parametrize(
    ("flags", "does"),
    [(["fpu avx512_bf16"] * 2, True), (["fpu amx_bf16 x"], True), (["avx512_bf16", "avx512f"], False), ([], False)],
)
def test_bfloat16_counts_only_where_the_processor_computes_in_it(flags, does, tmp_path):
    (tmp_path / "cpuinfo").write_text("".join(f"processor\t: {n}\nflags\t\t: {one}\n" for n, one in enumerate(flags)))
    assert adds_bfloat16(tmp_path / "cpuinfo") is does
    assert not adds_bfloat16(tmp_path / "none")


# Conversion


def test_the_shipped_networks_are_converted_and_small():
    weights = default_weights_folder()
    for task in tasks_in(weights):
        card = read_card(weights / f"{task}.json")
        read_converted(openvino().Core(), weights / f"{task}.json", card)
        assert (weights / card.openvino.arrays).stat().st_size < 16 * 1024**2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet-transposed", "attention-unet", "unet-plus-plus", "deeplabv3-plus", "segnet"])
def test_every_network_of_slices_is_converted(name, tmp_path):
    """DeepLabV3+ was not: sizes that its enlarging layers reckon were taken for results."""
    keras = pytest.importorskip("keras")
    from covct.architectures import ARCHITECTURES
    from covct.networks.to_openvino import convert

    keras.utils.set_random_seed(7)
    ARCHITECTURES[name](size=64, base_filters=4).save(tmp_path / "lungs.keras")
    card = threshold_card("lungs", file_sha256(tmp_path / "lungs.keras"))
    built = {"name": name, "arguments": {"size": 64, "base_filters": 4}}
    write_card(card.replaced(size=64, architecture=Call(**built)), tmp_path)
    assert convert(tmp_path / "lungs.json").openvino == read_card(tmp_path / "lungs.json").openvino is not None


@pytest.mark.slow
def test_a_network_is_converted_byte_for_byte_and_says_the_same(tmp_path):
    keras = pytest.importorskip("keras")
    from covct.architectures import ARCHITECTURES
    from covct.networks.segment import load_keras_networks

    folder = make_converted(tmp_path / "weights", ())
    for task in ("lungs", "infection"):
        keras.utils.set_random_seed(7)
        ARCHITECTURES["unet"](size=32, base_filters=4).save(folder / f"{task}.keras")
        unet = {"name": "unet", "arguments": {"size": 32, "base_filters": 4}}
        card = threshold_card(task, file_sha256(folder / f"{task}.keras"))
        write_card(card.replaced(size=32, architecture=Call(**unet)), folder)
    twin = shutil.copytree(folder, tmp_path / "twin")
    for one in (folder, twin):
        result = invoke("export", "openvino", one)
        assert result.exit_code == 0, result.output
    names = [f"{task}.{end}" for task in ("lungs", "infection") for end in ("xml", "bin", "json")]
    assert [(folder / name).read_bytes() for name in names] == [(twin / name).read_bytes() for name in names]
    seen = np.random.default_rng(0).random((5, 32, 32, 1), np.float32)
    here, there = load_converted_networks(folder), load_keras_networks(folder)
    assert np.abs(here.lungs.predict(seen) - there.lungs.predict(seen)).max() < 0.02
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
