"""Published systems, each from an empty folder to a scan by the networks it made; and recipes that are refused."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import typer
from keras import layers

from covct import cli
from covct.architectures import ARCHITECTURES
from covct.commands import train
from covct.commands.recipe import command_line
from covct.commands.systems import published
from covct.commands.train_options import Asked, Optimizer, Task
from covct.errors import UsageError
from covct.networks.cards import read_card
from covct.unattended.logs import LogFormat
from support.chests import chest, save, save_slices, windowed
from support.running import invoke, read_json

pytestmark = pytest.mark.slow

PEOPLE = [f"coronacases_{number:03d}" for number in range(1, 6)]
TINY = ["--epochs", 1, "--samples", 16, "--batch-size", 4, "--learning-rate", "1e-3", "--workers", 1]
BOTH = ["lungs", "infection"]
CLASSES = ["background", "ground-glass", "consolidation", "effusion"]
# By system: what its first folder holds, options that make it tiny, and what its cards must say.
SYSTEMS: dict[str, tuple[list[str], list[object], dict[str, object]]] = {
    "labellerr-2021": (BOTH, [], {"classes": CLASSES}),
    "miscnn-2021": (
        BOTH,
        ["--folds", 2, "--fold", 1, "--patch", "16,32,32", "--spacing", "8,7,7", "--batch-size", 2],
        {"patch": [16, 32, 32]},
    ),
    "pandey-2021": ([*BOTH, "empty-slices"], ["--show-augmented", 2], {"field_of_view": "otsu-body"}),
    "smallcovid-net-2024": (BOTH, [], {"threshold": 0.8}),
    "vangapally-2024": (BOTH, [], {"size": 224, "field_of_view": "lung-contours"}),
}


def volumes(folder, classes=False):
    """Five people as the 20 volumes are published; with classes as pairs, which tell them."""
    rows = ["ct_scan,lung_mask,infection_mask"]
    for seed, name in enumerate(PEOPLE):
        hu, lungs, infection = chest(seed)
        hu, lungs, infection = (np.repeat(one, 4, 0) for one in (hu, lungs, infection))
        hu = hu + np.random.default_rng(seed).integers(-9, 9, hu.shape, np.int16)  # no slice is there twice
        infection[:, 30:] *= 2  # consolidation below
        files = {"ct_scans": hu, "lung_mask": lungs, "infection_mask": infection if classes else infection > 0}
        for place, array in files.items():
            array = array.astype(hu.dtype if place == "ct_scans" else np.uint8)
            kind = {"ct_scans": "ct", "lung_mask": "lungs", "infection_mask": "infection"}[place]
            save(array, folder / (f"{name}_{kind}.nii.gz" if classes else f"{place}/{name}.nii.gz"))
        rows.append(",".join(f"../input/covid19/{place}/{name}.nii" for place in files))
    if not classes:
        (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def dark(size=32, slices=0, channels=1, outputs=1, base_filters=1, norm="batch", activation="sigmoid", **more):
    """A network of one weight that calls what is dark, but at the edges: any system in a second or two a training."""
    inputs = keras.Input((slices, size, size, channels) if slices else (size, size, channels))
    down, across = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    chest_wall = ((down / 0.7) ** 2 + (across / 0.9) ** 2 > 1).astype(np.float32)[..., None]
    layer = (layers.Conv3D if slices else layers.Conv2D)(
        outputs, 1, kernel_initializer=keras.initializers.Constant(-12),
        bias_initializer=keras.initializers.Constant(4), activation=activation, dtype="float32",
    )  # fmt: skip
    return keras.Model(inputs, layer(keras.ops.maximum(inputs, chest_wall)))


@pytest.fixture
def tiny(monkeypatch):
    for name in ARCHITECTURES:
        if name != "slice-classifier":
            monkeypatch.setitem(ARCHITECTURES, name, dark)


def test_every_system_is_tested_here():
    assert set(SYSTEMS) == set(published())


def first_folder(name, path):
    """The recipe of a system without its other folders, whose networks are all one here."""
    text = invoke("train", "--like", name, "--print").output
    tables = re.findall(r"^\[train\.([^.]+)\.[^.]+\]$", text, re.M)
    path.write_text(re.split(rf"^\[train\.(?!{tables[0]}\.)", text, maxsplit=1, flags=re.M)[0])
    return path


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_from_an_empty_folder_to_a_scan(name, tiny, tmp_path):
    tasks, more, told = SYSTEMS[name]
    recipe = first_folder(name, tmp_path / "recipe.toml")
    data, out = volumes(tmp_path / "data", classes=name.startswith("labellerr")), tmp_path / "out"
    assert invoke("explore", data, "-o", tmp_path / "explored").exit_code == 0
    ended = invoke("train", "--like", recipe, data, "-o", out, *TINY, *more)
    assert ended.exit_code == 0, ended
    [weights] = {path.parent for path in out.rglob("*.keras")}
    assert {path.stem for path in weights.glob("*.keras")} == set(tasks)
    card = read_card(weights / "infection.json")
    assert {key: getattr(card, key) for key in told} == told
    judged = invoke("evaluate", data, "--weights", weights, "-o", tmp_path / "judged", "--figures")
    assert judged.exit_code == 0, judged
    assert (tmp_path / "judged" / "evaluation.html").exists()
    assert (tmp_path / "judged" / "figures" / "infection-reliability.png").exists()
    [scan] = (path for path in data.rglob(f"{PEOPLE[0]}*") if path.parent.name == "ct_scans" or "_ct" in path.name)
    scanned = invoke("scan", scan, "--out", tmp_path / "results", "--weights", weights)
    assert scanned.exit_code == 0, scanned
    [report] = (tmp_path / "results").glob("*/*/report.json")
    assert read_json(report)["networks"]["infection"]["sha256"] == card.sha256


def refused(*arguments) -> str:
    ended = invoke("train", *arguments)
    assert isinstance(ended.exception, UsageError), ended.output
    return str(ended.exception)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("miscnn-2021", "slices", "unet3d/lungs: a network of volumes learns from volumes of known spacing"),
        ("labellerr-2021", "volumes", "unet/infection: --classes: no slice distinguishes ground-glass, consolidation"),
        ("pandey-2021", "elsewhere", r"incomplete: metadata.csv names ../input/covid19/ct_scans/coronacases_001.nii"),
    ],
)
def test_data_that_lack_something_are_refused_before_the_first_training(name, data, words, tmp_path):
    if data == "slices":
        save_slices(tmp_path / "data", ["a", "b", "c", "d", "e"], windowed)
    else:
        volumes(tmp_path / "data")
    if data == "elsewhere":
        (tmp_path / "data" / "ct_scans").rename(tmp_path / "gone")
    assert words in refused("--like", name, tmp_path / "data", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_system_is_named_as_it_is_called(tmp_path):
    assert "did you mean miscnn-2021?" in refused("--like", "miscnn", tmp_path, "-o", tmp_path / "out")
    assert "labellerr-2021, miscnn-2021, " in refused("--like", "qqq", tmp_path, "-o", tmp_path / "out")
    assert "no training of restorer" in refused("restorer", tmp_path, "--like", "miscnn-2021", "-o", tmp_path / "out")
    assert "--like miscnn-2021: no output folder" in refused("--like", "miscnn-2021", tmp_path)
    assert "it goes with --like" in refused("lungs", tmp_path, "-o", tmp_path / "out", "--print")


@pytest.mark.parametrize("name", published())
def test_a_recipe_is_shown_and_every_key_of_it_is_an_option(name):
    shown = invoke("train", "--like", name, "--print")
    assert shown.exit_code == 0
    assert "As its source has it:" in shown.output and "Otherwise here:" in shown.output
    assert tomllib.loads(shown.output)["train"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("[train]\nepoch = 3\n[train.unet.lungs]\n", "line 2: [train] epoch: covct train has no such option; did you "),
        ("[train.unet.lungs]\n\nepochs = 'x'\n", 'line 3: [train.unet.lungs] epochs: "x", wanted a whole number'),
        ("[train.unet.lung]\n", "wanted a table of restorer, lungs, infection, empty-slices; did you mean lungs?"),
        ("[train.unet.lungs]\nresume = true\n", "line 2: [train.unet.lungs] resume: not for a recipe to say"),
        ("[trian.unet.lungs]\n", "trian: a recipe has one table, [train]; did you mean train?"),
        ("[train]\nepochs = 3\n", "no table [train.FOLDER.TASK]"),
        ("[train.'../x'.lungs]\n", "wanted letters, digits, dots and dashes"),
    ],
)  # fmt: skip
def test_a_recipe_with_a_mistake_names_its_line_and_the_near_key(recipe, words, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(recipe)
    assert words in refused("--like", path, tmp_path, "-o", tmp_path / "out")


def test_options_beside_a_system_go_before_its_recipe_and_a_task_chooses(tiny, tmp_path, monkeypatch):
    """By the command line or the environment; what is not given comes from its own table, then from the shared one."""
    monkeypatch.setenv("COVCT_TRAIN_SEED", "7")
    asked = []
    monkeypatch.setattr(train, "train_all", lambda wishes: asked.extend(wishes))
    arguments = ["infection", "data", "--like", "smallcovid-net-2024", "--out", tmp_path, "--epochs", 2, "--exact"]
    assert invoke("train", *arguments).exit_code == 0
    assert [wish.asked.out.name for wish in asked] == ["smallcovid-net", "unet", "segnet", "mask-rcnn"]
    one = asked[0].asked
    assert (one.task.value, str(one.data), one.epochs, one.exact, one.seed) == ("infection", "data", 2, True, 7)
    assert (one.samples, one.threshold, one.optimizer.value, one.resume) == (4800, 0.8, "sgd", True)
    assert not asked[0].find_lr


def test_a_rate_is_searched_for_once_and_trained_at(tiny, tmp_path, monkeypatch):
    runs = []

    def run(asked, readings=None):
        runs.append((asked.find_lr, asked.show_augmented, asked.learning_rate))
        if asked.find_lr:
            asked.out.mkdir(parents=True)
            (asked.out / "lungs-find-lr.json").write_text(json.dumps({"suggestion": 0.02}))

    monkeypatch.setattr(train, "run", run)
    monkeypatch.setattr(train, "_look", lambda *_: None)
    arguments = ["lungs", tmp_path, "--like", "pandey-2021", "-o", tmp_path / "out", "--show-augmented", 0]
    for _ in range(2):
        assert invoke("train", *arguments).exit_code == 0
    both = [(False, 0, 0.02)] * 2
    assert runs == [(True, 0, 1e-3), (False, 0, 0.02), (True, 0, 1e-3), (False, 0, 0.02), *both]
    assert invoke("train", *arguments, "--learning-rate", 0.5).exit_code == 0
    assert runs[-2:] == [(False, 0, 0.5)] * 2


def test_a_training_as_a_command_line_asks_for_the_same():
    asked = Asked(Task.infection, Path("data"), Path("out"), epochs=3, classes=True, initial=Path("{fold}.json"),
                  folds=2, leave_out="a,b", optimizer=Optimizer.sgd)  # fmt: skip
    words = command_line(replace(asked, fold=1))
    assert words[:3] == ["train", "infection", "data"]
    seen = []
    command = typer.main.get_command(cli.app).named("train")  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "run", seen.append)
        assert command.main(words[1:], standalone_mode=False) is None
    assert seen == [replace(asked, fold=1, log_format=LogFormat.json)]
