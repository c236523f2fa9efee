"""Trees of earlier versions, whose folders bear fewer digits of a hash: read, redone in place, never overwritten."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from covct.intake import older_trees
from covct.intake.discover import HASH_DIGITS, discover, safe_name
from covct.intake.nifti import write_nifti
from covct.outputs import Outputs
from covct.results.verify import verify
from covct.unattended.convert import Conversion, convert
from support.batches import never, run
from support.running import read_json
from support.series import change

pytestmark = pytest.mark.slow

UUID = "0d4ee4a4-9a1e-4b5c-8f3e-6a5b8f0c7d21"  # as whole public collections have them


@pytest.fixture
def mixed(phantom, inbox):
    """A NIfTI, a study whose UIDs are none, and two ordinary studies."""
    (inbox / "d").mkdir()
    write_nifti(phantom.volume, inbox / "d" / "chest.nii.gz")
    change(inbox / "c", StudyInstanceUID=UUID, SeriesInstanceUID=UUID)
    return inbox


def aged(out):
    """Give the folders the names of the version before, and the outcomes what they noted then."""
    for path in out.glob("*/*/outcome.json"):
        told = read_json(path)
        path.write_text(json.dumps({name: told[name] for name in told.keys() - {"patient", "content"}}))
    for folder in [*out.glob("*/*"), *out.glob("*")]:
        if not folder.name.startswith(".") and older_trees.earlier(folder.name) != folder.name:
            folder.rename(folder.with_name(older_trees.earlier(folder.name)))
    shutil.rmtree(out / ".covct")


def folders(out):
    return sorted(str(path.parent.relative_to(out)) for path in out.glob("*/*/outcome.json"))


@pytest.fixture
def older(mixed, order, networks):
    run(order, networks)
    aged(order.out)
    assert [len(name.split("/")[0]) for name in folders(order.out)][2:] == [len("nifti-") + 12, len("uid-") + 24]
    return folders(order.out)


def test_names_have_128_bits_of_a_hash(mixed):
    names = {part for series in discover([mixed]).series for part in series.folder.split("/")}
    assert sorted(len(name.split("-")[1]) for name in names if "-" in name) == [32, 32]
    assert HASH_DIGITS == 32


def test_results_of_an_older_tree_are_not_done_again(older, order):
    tally, events = run(order, never)
    assert tally["done before"] == 4
    assert folders(order.out) == older
    assert sorted(event["folder"] for event in events if event["event"] == "skipped") == older
    assert run(order, never)[0]["done before"] == 4, "remembered by the index too"


@pytest.mark.parametrize("wish", [{"force": True}, {"outputs": Outputs(("seg", "png"))}])
def test_a_redo_takes_the_place_of_the_older_result(wish, older, order, networks):
    tally, _ = run(replace(order, **wish), networks)
    assert tally["done"] == 4
    assert folders(order.out) == older


def test_all_series_of_a_study_stay_in_the_folder_of_an_earlier_version(mixed, order, networks):
    """One of them lies there; the others, not chosen then, shall not become a study of their own."""
    shutil.copytree(mixed / "c", mixed / "e")
    change(mixed / "e", SeriesInstanceUID="1.2.3", SOPInstanceUID=lambda i: f"1.2.3.{i}", SliceThickness=12.0)
    run(order, networks)
    aged(order.out)
    before = folders(order.out)
    assert run(order, networks)[0]["done before"] == 4
    assert folders(order.out) == before
    shutil.rmtree(mixed / "c")
    run(order, networks)
    assert [name for name in folders(order.out) if name not in before] == [
        f"{older_trees.earlier(safe_name(UUID))}/1.2.3"
    ]


def test_an_older_tree_is_verified_with_its_sources(older, order, mixed):
    assert [verdict.defects for verdict in verify(order.out, [mixed])] == [()] * 4


def test_the_result_of_another_file_with_the_same_few_digits_stays(mixed, phantom, order, networks, monkeypatch):
    """Two files whose hashes share 48 bits can be made; here they share none, and the digits are counted as none."""
    monkeypatch.setattr(older_trees, "EARLIER_DIGITS", {"nifti-": 0, "uid-": 24})
    run(order, networks)
    aged(order.out)
    theirs = read_json(order.out / "nifti-/volume/outcome.json")
    (mixed / "d" / "chest.nii.gz").rename(mixed / "d" / "theirs.nii.gz.part")
    write_nifti(phantom.volume.with_array(phantom.volume.array + np.int16(1)), mixed / "d" / "mine.nii.gz")
    tally, _ = run(order, networks)
    assert tally["done"] == 1
    assert read_json(order.out / "nifti-/volume/outcome.json") == theirs
    assert len(list(order.out.glob("nifti-*/volume/report.json"))) == 2


def test_a_late_slice_finds_what_an_earlier_version_moved(mixed, order, networks, tmp_path):
    moving = replace(order, move_done=tmp_path / "moved")
    late = sorted((mixed / "c").iterdir())[-1]
    shutil.move(late, tmp_path / "late.dcm")
    run(moving, networks)
    aged(order.out)
    [ledger] = (moving.move_done / ".covct").glob("uid-*")
    ledger.rename(ledger.with_name(older_trees.earlier(ledger.name)))
    shutil.move(tmp_path / "late.dcm", mixed / "late.dcm")
    run(moving, networks)
    [report] = order.out.glob("uid-*/*/report.json")
    assert read_json(report)["source"]["instances"] == 30


def test_what_an_earlier_version_converted_is_kept(mixed, tmp_path):
    order = Conversion((mixed,), tmp_path / "converted", to="nifti")
    assert convert(order, lambda event: None)["converted"] == 3
    for path in [*order.out.glob("uid-*/*"), *order.out.glob("uid-*")]:
        path.rename(path.with_name(older_trees.earlier(path.name)))
    assert convert(order, lambda event: None)["kept"] == 3


def test_names_of_earlier_versions():
    assert older_trees.earlier("nifti-" + "a" * 32 + "/volume") == "nifti-" + "a" * 12 + "/volume"
    assert older_trees.earlier("1.2.3/1.2.3.4-1") == "1.2.3/1.2.3.4-1"
    assert older_trees.earlier(f"uid-{'b' * 32}/uid-{'c' * 32}-2") == f"uid-{'b' * 24}/uid-{'c' * 24}-2"
