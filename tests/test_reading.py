"""Sources are read once, however many plans are made of them."""

import pytest

pytest.importorskip("keras")

from covct.data.published import find_sources  # noqa: E402
from covct.errors import UsageError  # noqa: E402
from covct.training.samples import reading as module  # noqa: E402
from covct.training.samples.plans import plan_infection, plan_lungs  # noqa: E402
from covct.training.samples.reading import Reading, Readings  # noqa: E402
from covct.training.settings import Settings  # noqa: E402
from support.chests import (  # noqa: E402
    equalised,
    fake_restore,  # noqa: E402
    save_slices,
    windowed,
)


@pytest.fixture
def published_data(tmp_path):
    save_slices(tmp_path / "data", ["p1", "p2"], equalised)
    return tmp_path / "data"


@pytest.fixture
def reads(monkeypatch):
    """How often slices were read, in which look."""
    counted = []
    restored, equalised = module.read_ma_slices, module.read_equalised_ma_slices

    def count(folder, restore, in_hu=None):
        counted.append("restored")
        return restored(folder, restore)

    def count_equalised(folder):
        counted.append("equalised")
        return equalised(folder)

    monkeypatch.setattr(module, "read_ma_slices", count)
    monkeypatch.setattr(module, "read_equalised_ma_slices", count_equalised)
    return counted


def test_folds_and_tasks_read_each_look_once(reads, published_data):
    reading = Reading(find_sources(published_data), fake_restore)
    for fold in range(2):
        plan_lungs(reading, Settings("lungs", 1, 8, folds=2, fold=fold))
        held = plan_infection(reading, Settings("infection", 1, 8, folds=2, fold=fold)).held_out["ma"]
        assert len(held) == 1
    assert reads == ["restored", "equalised"]


def test_another_folder_or_restorer_is_read_anew(tmp_path, published_data, monkeypatch):
    readings = Readings()
    first = readings.of(published_data, None)
    assert readings.of(published_data, None) is first
    save_slices(tmp_path / "other", ["p3"], windowed)
    other = readings.of(tmp_path / "other", None)
    assert other.sources != first.sources
    monkeypatch.setattr(module, "load_restorer", lambda card: fake_restore)
    assert readings.of(tmp_path / "other", tmp_path / "restorer.json").restore is fake_restore


def test_slices_in_clahe_want_a_restorer(published_data):
    with pytest.raises(UsageError, match="need a restorer: --restorer CARD"):
        Reading(find_sources(published_data)).parts(("ma",))
