"""Sources are read once, however many plans are made of them."""

import hashlib

import pytest

pytest.importorskip("keras")

from covct.data.published import find_sources  # noqa: E402
from covct.errors import UsageError  # noqa: E402
from covct.networks.cards import default_weights_folder, read_card  # noqa: E402
from covct.training import loop  # noqa: E402
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


def test_slices_in_clahe_go_through_the_shipped_restorer_where_none_is_given(published_data, monkeypatch):
    """Only once a slice needs it: a folder in HU never loads it."""
    loaded = []
    monkeypatch.setattr(module, "load_restorer", lambda card: loaded.append(card) or fake_restore)
    reading = Readings().of(published_data, None)
    assert (loaded, reading.restored_by) == ([], None)
    plan_lungs(reading, Settings("lungs", 1, 8))
    [card] = loaded
    assert reading.restored_by == card == default_weights_folder() / "restorer.json"


def test_the_shipped_restorer_is_refused_where_it_has_learned_held_out_people(published_data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_restorer", lambda card: fake_restore)
    settings, told = Settings("lungs", 1, 8, base_filters=2, seed=0), []
    card = read_card(default_weights_folder() / "restorer.json")

    def with_learned(*names):
        learned = {"ma": [hashlib.sha256(name.encode()).hexdigest()[:12] for name in names]}
        training = {"held_out_patients": {"ma": []}, "learned_patients": learned}
        monkeypatch.setattr(loop, "read_card", lambda path: card.replaced(training=training))
        return loop.prepare(settings, published_data, tmp_path, None, None, report=told.append)

    plan, _, facts = with_learned("somebody")
    assert facts["restorer"] == {"sha256": card.sha256}
    assert "shipped restorer" in told[-1]["text"]
    [held] = plan.held_out["ma"]
    with pytest.raises(UsageError, match=rf"was trained on {held}.*shipped restorer: train one of your own"):
        with_learned(held)
