"""`covct explore`: the facts of every case, what is left out, and the page to look at."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from covct import cli
from covct.data.explore import explore
from covct.data.explore_page import as_html
from support.chests import chest, save, save_pair, save_slices, windowed


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path):
    """Two volumes in HU (one healthy), two patients in window slices, and a mask of another image."""
    folder = tmp_path / "data"
    save_pair(folder / "site", "sick", 1)
    save_pair(folder / "site", "well", 2, infected=False)
    save_pair(folder / "site", "odd", 3)
    save(chest()[1][:4], folder / "site" / "odd_lungs.nii.gz")
    save_slices(folder / "slices", ["p1", "p2"], windowed)
    return folder


def test_facts_are_counted_voxel_by_voxel(data):
    found = explore(data)
    sick = next(one for one in found.facts if one.name == "sick")
    _, lungs, infection = chest(1)
    assert sick.shape == (6, 48, 48) and sick.spacing_mm == (5.0, 4.0, 4.0) and sick.orientation == "LPH"
    assert sick.lung_share == pytest.approx((lungs > 0).mean(), abs=1e-5)
    assert sick.infection_share == pytest.approx(infection.sum() / (lungs > 0).sum(), abs=1e-5)
    assert (sick.without_lung, sick.without_infection, sick.outside_share) == (1, 1, 0)
    assert -870 < sick.healthy < -830 and -470 < sick.infected < -430
    well = next(one for one in found.facts if one.name == "well")
    assert (well.infection_share, well.without_infection, well.infected) == (0, 6, None)


def test_domains_are_told_apart_and_never_pooled(data):
    lines = explore(data).sources()
    assert [(one["source"], one["domain"], one["cases"], one["slices"]) for one in lines] == [
        ("site", "hu", 2, 12),
        ("slices", "window-8bit", 2, 10),
    ]
    assert set(explore(data).histograms) == {"hu", "window-8bit"}


def test_what_is_left_out_has_its_reason(data):
    [left] = explore(data).left_out
    assert (left.source, left.case, left.slug) == ("site", "odd", "other-shape")


def test_json_is_one_document_and_nothing_is_written(data):
    before = sorted(data.rglob("*"))
    result = invoke("explore", data, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert len(document["cases"]) == 4 and document["left_out"][0]["slug"] == "other-shape"
    assert sorted(data.rglob("*")) == before


def test_the_terminal_says_what_the_json_says(data):
    text = invoke("explore", data).stdout
    for told in ("site: hu", "slices: window-8bit", "sick", "6x48x48", "5x4x4", "left out: 1 other-shape"):
        assert told in text


def test_the_page_is_self_contained_and_says_what_it_is_for(data, tmp_path):
    result = invoke("explore", data, "--out", tmp_path / "out")
    assert result.exit_code == 0
    page = (tmp_path / "out" / "explore.html").read_text()
    assert "Research use only" in page
    assert page.count("<svg") >= 4 and page.count("data:image/png") == 12
    assert "http" not in page.replace("http-equiv", ""), "nothing is loaded from anywhere"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["explore.html", "explore.json"]


def test_names_of_files_cannot_write_into_the_page(tmp_path):
    save_pair(tmp_path, "<script>alert(1)<")
    assert "<script>" not in as_html(explore(tmp_path), "<b>")


def test_a_case_whose_every_slice_with_lung_is_another_s(tmp_path):
    """What is left of it holds nothing to show; it ended in a traceback."""
    save_pair(tmp_path, "first", kinds=("lungs",))
    hu, lungs, _ = chest()
    noise = np.random.default_rng(1).normal(40, 12, (4, 48, 48)).astype(np.int16)
    save(np.concatenate([hu[1:], noise]), tmp_path / "second_ct.nii.gz")
    save(np.concatenate([lungs[1:], np.zeros((4, 48, 48), np.uint8)]), tmp_path / "second_lungs.nii.gz")
    found = explore(tmp_path)
    assert [one.shape[0] for one in found.facts] == [6, 4]
    assert len([one for one in found.examples if one.case == "second"]) == 3


def test_a_folder_without_cases_is_an_answer_and_a_missing_one_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    result = invoke("explore", tmp_path / "empty")
    assert result.exit_code == 0 and "no usable cases" in result.stdout
    from covct.errors import UsageError

    assert isinstance(invoke("explore", tmp_path / "absent").exception, (UsageError, SystemExit))


def test_out_that_cannot_be_written_is_said(data, tmp_path):
    from covct.errors import OutputNotWritable

    (tmp_path / "file").write_text("")
    result = invoke("explore", data, "--out", tmp_path / "file" / "out")
    assert isinstance(result.exception, OutputNotWritable) or result.exit_code == 12
