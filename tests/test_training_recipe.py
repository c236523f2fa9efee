"""Every training leaves the recipe that repeats it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from covct import cli
from covct.architectures import ARCHITECTURES
from covct.commands.recipe import LEFT_OUT, recipe
from covct.commands.train_options import Asked, Task
from covct.networks.cards import read_card
from covct.networks.segment import load_network
from covct.training.samples import plans
from support import tiny_training
from support.running import invoke

pytestmark = pytest.mark.slow

ROOT = Path(cli.__file__).parents[1]
PROGRAM = "from support import tiny_training; tiny_training.install(); from covct.cli import main; main()"


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The small network and its data, in this process; returns the data's folder."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", tiny_training.tiny)
    monkeypatch.setitem(plans.PLANS, "lungs", tiny_training.tiny_plan)
    return tiny_training.data_folder(tmp_path)


def asked_of(data, *more):
    return ["train", "lungs", str(data), "--architecture", "tiny", "--base-filters", "2", "--epochs", "2",
            "--samples", "12", "--batch-size", "4", "--split", "0.25", *more]  # fmt: skip


def run(*arguments, cwd):
    """In a process of its own, so that one thread is one thread."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, cwd=cwd, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    card = cwd / json.loads(ended.stdout)["card"]
    return load_network(card)[1].get_weights(), read_card(card).threshold


def test_a_training_is_repeated_by_its_recipe(tmp_path, tiny):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = run(*asked_of("data", "--exact", "--seed", "7", "--ema", "0.9"), "--out", "first", cwd=tmp_path)
    again = run(
        "train", "--config", tmp_path / "first" / "lungs-recipe.toml", "--out", tmp_path / "again", cwd=elsewhere
    )
    assert (tmp_path / "first" / "lungs-recipe.toml").read_text() == (
        tmp_path / "again" / "lungs-recipe.toml"
    ).read_text()
    assert all(np.array_equal(one, other) for one, other in zip(first[0], again[0], strict=True))
    assert first[1] == again[1]


def test_each_fold_trained_alone_has_its_recipe_and_all_folds_one(tmp_path, tiny):
    def trained(*more):
        assert invoke(*asked_of(tiny, "--folds", "2", *more)).exit_code == 0

    trained("--out", str(tmp_path / "all"))
    assert [path.name for path in (tmp_path / "all").rglob("lungs-recipe.toml")] == ["lungs-recipe.toml"]
    assert "fold" not in tomllib.loads((tmp_path / "all" / "lungs-recipe.toml").read_text())["train"]
    trained("--out", str(tmp_path / "one"), "--fold", "1")
    assert tomllib.loads((tmp_path / "one" / "fold-1" / "lungs-recipe.toml").read_text())["train"]["fold"] == 1


def test_a_training_that_is_refused_leaves_the_recipe_of_the_one_before(tmp_path, tiny):
    out = ["--out", str(tmp_path / "out")]
    assert invoke(*asked_of(tiny), *out).exit_code == 0
    before = (tmp_path / "out" / "lungs-recipe.toml").read_text()
    assert "other settings" in str(invoke(*asked_of(tiny, "--seed", "9", "--resume"), *out).exception)
    assert (tmp_path / "out" / "lungs-recipe.toml").read_text() == before


def test_a_recipe_holds_what_decides_the_weights_and_nothing_else(tmp_path):
    asked = Asked(
        Task.lungs, Path("data"), Path("out"), initial=Path("m/{fold}.json"), learning_rate=1e-5, classes=True
    )
    held = tomllib.loads(recipe(asked))["train"]
    assert held["initial"] == str(Path.cwd() / "m/{fold}.json")
    assert (held["task"], held["learning-rate"], held["classes"]) == ("lungs", 1e-5, True)
    names = {name for name, value in vars(asked).items() if value is not None} - LEFT_OUT
    assert set(held) == {name.replace("_", "-") for name in names}


@pytest.mark.parametrize("name", ['a "b"\\c', "ü\x7f", "𝔸\n"])
def test_any_path_comes_back_from_a_recipe(name):
    held = tomllib.loads(recipe(Asked(Task.lungs, Path("/") / name, Path("out"))))
    assert held["train"]["data"] == f"/{name}"
