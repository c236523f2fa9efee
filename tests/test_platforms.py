"""Each platform's contract: its folders and variables as it documents them, its result as it takes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import typer

from covct import RESEARCH_USE, cli
from covct.commands.platform import Name, arguments_of
from covct.errors import UsageError
from covct.platforms import holoscan
from covct.platforms.assignment import WORK, Results, Wishes
from covct.platforms.mercure import MERCURE
from covct.platforms.recognise import PLATFORMS
from covct.results.entries import Entry
from support.checkout import PYTHONPATH
from support.running import invoke, read_json
from support.series import change
from support.volumes import as_itk

pytestmark = pytest.mark.usefixtures("threshold_networks")
NOT_SET = ("MERCURE_IN_DIR", "HOLOSCAN_INPUT_PATH", "WORKFLOW_DIR")


def entry(percent):
    """A result whose share of opacity is this, as it is read from a tree."""
    return Entry("1.2/3.4", "done", series_instance_uid="3.4", figures={("infection_percent", "lungs"): percent})


def refused(ran):
    """What was said to a person, where the program ends with exit code 2."""
    assert isinstance(ran.exception, UsageError), ran
    return str(ran.exception)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    for name in NOT_SET:
        monkeypatch.delenv(name, raising=False)


class Mercure:
    """What Mercure makes before it starts a module: flat files, their tags, the task, and its variables."""

    def __init__(self, root, series, monkeypatch):
        self.given, self.out = root / "tmp/data", root / "tmp/output"
        self.given.mkdir(parents=True)
        self.out.mkdir()
        for path in series.glob("*.dcm"):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            name = f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}"
            shutil.copy2(path, self.given / f"{name}.dcm")
            (self.given / f"{name}.tags").write_text(json.dumps({"Modality": "CT"}))
        self.settings()
        for kind in ("MERCURE_{}_DIR", "HOLOSCAN_{}PUT_PATH", "MONAI_{}PUTPATH"):
            monkeypatch.setenv(kind.format("IN"), "/tmp/data")
            monkeypatch.setenv(kind.format("OUT"), "/tmp/output")
        self.root = root

    def settings(self, **settings):
        step = {"module_name": "covct", "module_config": {"docker_tag": "covct:slim"}, "settings": settings}
        info = {"action": "both", "uid": "1.2", "uid_type": "series", "patient_name": "Doe^Jane"}
        task = {"info": info, "id": "a-b", "process": {**step, "retain_input_images": True, "output": None}}
        (self.given / "task.json").write_text(json.dumps(task))

    def assignments(self):
        return list(MERCURE.assignments(os.environ, Wishes(self.root)))

    def run(self):
        return invoke("platform", "auto", "--root", self.root)


@pytest.fixture
def mercure(tmp_path, phantom_series, monkeypatch):
    return Mercure(tmp_path, phantom_series, monkeypatch)


def test_mercure_gets_flat_dicom_files_and_a_result(mercure):
    mercure.settings(formats="seg,sr")
    ran = mercure.run()
    assert ran.exit_code == 0, ran.stderr
    assert "Mercure" in ran.stderr
    assert all(path.is_file() for path in mercure.out.iterdir())
    objects = sorted(mercure.out.glob("*.dcm"))
    assert sorted(pydicom.dcmread(path).Modality for path in objects) == ["SEG", "SR"]
    for path in objects:
        written = pydicom.dcmread(path)
        assert path.name == f"{written.SeriesInstanceUID}#{written.SOPInstanceUID}.dcm"
    told = read_json(mercure.out / "result.json")
    assert told["research_use"] == RESEARCH_USE
    [series] = told["series"]
    assert series["status"] == "done" and 0 < series["infection_percent"] < 100
    assert {path.name for path in mercure.out.iterdir()} == {*series["files"], "result.json"}
    notified = told["__mercure_notification"]
    assert notified["requested"] is False and RESEARCH_USE in notified["text"] and "Doe" not in notified["text"]
    assert "__mercure_routing" not in told


@pytest.mark.parametrize(("percent", "reached"), [(11.9, True), (12, True), (12.1, False)])
def test_mercure_is_asked_to_notify_and_to_route_from_a_share(mercure, percent, reached):
    mercure.settings(notify_from=percent, route_to=["urgent"], route_from=percent)
    [assignment] = mercure.assignments()
    assignment.deliver(Results(assignment.tree, [entry(12.0), entry(None), Entry("a/b", "rejected", slug="too-short")]))
    told = read_json(mercure.out / "result.json")
    assert told["__mercure_notification"]["requested"] is reached
    assert told.get("__mercure_routing") == ({"target": ["urgent"]} if reached else None)
    assert "too-short" in told["__mercure_notification"]["text"]


def test_two_scans_of_one_series_do_not_write_over_each_other(mercure):
    """Under one Series Instance UID there may be several, whose results have folders of their own."""
    mercure.settings()
    [assignment] = mercure.assignments()
    entries = []
    for folder in ("1.2/3.4", "1.2/3.4.80kV"):
        (assignment.tree / folder).mkdir(parents=True)
        (assignment.tree / folder / "report.json").write_text(folder)
        entries.append(Entry(folder, "done", series_instance_uid="3.4", files=["report.json"]))
    assignment.deliver(Results(assignment.tree, entries))
    names = [one["files"] for one in read_json(mercure.out / "result.json")["series"]]
    assert names == [["3.4#report.json"], ["3.4.80kV#report.json"]]
    assert [(mercure.out / name).read_text() for [name] in names] == [one.folder for one in entries]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"formts": "seg"}, "did you mean formats?"),
        ({"notify_form": 5}, "did you mean notify-from?"),
        ({"out": "/elsewhere"}, "no such setting"),
        ({"limit": "one"}, "wanted a whole number"),
        ({"strict": "yes"}, "wanted true or false"),
        ({"notify-from": 101}, "wanted a percentage from 0 to 100"),
        ({"route-from": 5}, "without route-to"),
        ({"formats": "segg"}, "segg"),
    ],
)
def test_a_wrong_setting_of_mercure_ends_it_before_any_work(mercure, settings, said):
    mercure.settings(**settings)
    assert said in refused(mercure.run())
    assert not list(mercure.out.glob("*.dcm"))


def test_options_of_every_kind_can_be_settings_of_mercure(mercure):
    mercure.settings(
        formats="seg", strict=True, force=False, limit=5, select=["Modality=CT", "Rows=128"], all_frames=True
    )
    [assignment] = mercure.assignments()
    scan = typer.main.get_command(cli.app).named("scan")  # type: ignore[attr-defined]
    line = arguments_of(assignment, scan)
    assert " ".join(line) == ("--formats seg --strict --limit 5 --select Modality=CT --select Rows=128 --all-frames")


@pytest.mark.parametrize("text", ["{", "[]", '{"process": {"settings": []}}', '{"process": [{}, {}]}'])
def test_a_task_of_mercure_that_makes_no_sense_is_refused(mercure, text):
    (mercure.given / "task.json").write_text(text)
    assert "task.json" in refused(mercure.run())


def test_mercure_without_a_task_has_no_settings(mercure):
    (mercure.given / "task.json").unlink()
    assert [dict(one.settings) for one in mercure.assignments()] == [{}]


def test_a_series_that_is_refused_is_no_success(tmp_path, series_folder, monkeypatch):
    """Exit 0 would let Mercure route nothing, and call it done."""
    change(series_folder, Modality="MR")
    mercure = Mercure(tmp_path, series_folder, monkeypatch)
    ran = mercure.run()
    assert ran.exit_code == 3
    assert "no series was segmented" in ran.stderr
    assert not (mercure.out / WORK).exists()


def test_a_task_that_was_killed_goes_on_where_it_was(mercure):
    tree = mercure.out / WORK
    assert invoke("scan", mercure.given, "--out", tree, "--formats", "seg").exit_code == 0
    mercure.settings(formats="seg")
    assert "already finished" in mercure.run().stderr
    assert len(list(mercure.out.glob("*.dcm"))) == 1 and not tree.exists()


def test_every_platform_can_be_named():
    assert [name.value for name in Name] == ["auto", *PLATFORMS]


def test_without_a_platform_nothing_is_a_success(tmp_path):
    said = refused(invoke("platform", "auto", "--root", tmp_path))
    assert [one.title for one in PLATFORMS.values() if one.title not in said] == []


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_platform_that_is_named_has_to_be_there(name, tmp_path):
    assert "did not start this process" in refused(invoke("platform", name, "--root", tmp_path))


@pytest.mark.parametrize("variable", ["MERCURE_IN_DIR", "HOLOSCAN_INPUT_PATH"])
def test_half_a_contract_is_refused(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, "/data")
    for name in ("MERCURE_OUT_DIR", "HOLOSCAN_OUTPUT_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert variable in refused(invoke("platform", "auto", "--root", tmp_path))


def test_holoscan_gets_results_by_study(tmp_path, phantom_series, monkeypatch):
    shutil.copytree(phantom_series, tmp_path / "var/holoscan/input/study")
    monkeypatch.setenv("HOLOSCAN_INPUT_PATH", "/var/holoscan/input")
    monkeypatch.setenv("HOLOSCAN_OUTPUT_PATH", "/var/holoscan/output")
    monkeypatch.setenv("COVCT_SCAN_FORMATS", "seg")
    assert invoke("platform", "auto", "--root", tmp_path).exit_code == 0
    out = tmp_path / "var/holoscan/output"
    [series] = read_json(out / "results.json")["series"]
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        *series["files"], "results.json",
    }  # fmt: skip
    assert [name for name in series["files"] if name.endswith("segmentation.seg.dcm")]


def test_manifests_of_holoscan_have_what_its_table_of_fields_asks_for(tmp_path):
    assert invoke("platform", "holoscan", "--manifests", tmp_path / "etc", "--gpu").exit_code == 0
    app, package = (read_json(tmp_path / "etc" / name) for name in ("app.json", "pkg.json"))
    assert app["type"] == "application" and app["command"] == "covct platform holoscan"
    assert {"HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"} <= set(app["environment"])
    assert app["input"]["formats"] and app["output"]["format"] and app["workingDirectory"].startswith("/")
    assert app["liveness"]["command"] == ["covct", "health"]
    assert {"lungs", "infection"} <= {model["name"] for model in package["models"]}
    assert package["applicationRoot"].startswith("/") and package["resources"]["gpu"] == 1
    semver = r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?"
    assert re.fullmatch(semver, app["version"]) and app["version"] == package["version"]
    assert "only holoscan" in refused(invoke("platform", "mercure", "--manifests", tmp_path))


def test_what_mercure_takes_for_a_package_that_must_be_root_is_not_written():
    assert "/etc/monai" not in json.dumps(holoscan.application_manifest())


@pytest.fixture
def batch(tmp_path, inbox, monkeypatch):
    """A batch of Kaapana: an element for each series, by its UID."""
    for number, folder in enumerate(sorted(inbox.iterdir()), start=1):
        shutil.move(folder, tmp_path / f"data/batch/1.2.{number}.1/get-input-data")
    names = {"WORKFLOW_DIR": "/data", "BATCH_NAME": "batch"}
    for name, value in (names | {"OPERATOR_IN_DIR": "get-input-data", "OPERATOR_OUT_DIR": "covct"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COVCT_SCAN_FORMATS", "seg")
    return tmp_path / "data/batch"


def test_kaapana_gets_each_elements_result_beside_its_input(batch, tmp_path):
    """One that holds nothing is no success, and keeps nothing from the others."""
    for path in (batch / "1.2.3.1/get-input-data").iterdir():
        path.unlink()
    assert invoke("platform", "auto", "--root", tmp_path).exit_code == 3
    assert read_json(batch / "1.2.3.1/covct/results.json")["series"] == []
    for element in (batch / "1.2.1.1", batch / "1.2.2.1"):
        seg = pydicom.dcmread(element / "covct/segmentation.seg.dcm")
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == element.name
        assert [one["series_instance_uid"] for one in read_json(element / "covct/results.json")["series"]] == [
            element.name
        ]
        assert not (element / "covct" / WORK).exists()


def test_an_operator_of_kaapana_without_input_is_refused(tmp_path, batch, monkeypatch):
    monkeypatch.setenv("OPERATOR_IN_DIR", "elsewhere")
    assert "elsewhere" in refused(invoke("platform", "kaapana", "--root", tmp_path))


@pytest.fixture
def job(phantom, tmp_path):
    """A job of Grand-challenge: one MetaImage with a random name, its axes in an odd order and askew."""
    image = sitk.DICOMOrient(as_itk(phantom.volume), "SRP")
    turn = sitk.VersorTransform((0, 0, 1), 0.1).GetMatrix()
    image.SetDirection((np.reshape(turn, (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    (tmp_path / "input/images/ct").mkdir(parents=True)
    (tmp_path / "output").mkdir()
    sitk.WriteImage(image, tmp_path / "input/images/ct/8f2c9d0a.mha", useCompression=True)
    return tmp_path


def test_grand_challenge_gets_masks_on_the_grid_of_its_image(job, monkeypatch):
    monkeypatch.setenv("COVCT_PLATFORM_LUNGS_SOCKET", "images/lungs")
    assert invoke("platform", "auto", "--root", job).exit_code == 0
    image = sitk.ReadImage(job / "input/images/ct/8f2c9d0a.mha")
    lungs, infection = (
        sitk.ReadImage(job / f"output/images/{socket}/8f2c9d0a.mha")
        for socket in ("lungs", "covid-19-lesion-segmentation")
    )
    for mask in (lungs, infection):
        assert mask.GetSize() == image.GetSize()
        for told in ("GetOrigin", "GetSpacing", "GetDirection"):
            assert getattr(mask, told)() == getattr(image, told)(), told
    assert set(np.unique(sitk.GetArrayFromImage(lungs))) == {0, 1, 2}
    hu, inside = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(lungs) > 0
    assert np.median(hu[inside]) < -600 < np.median(hu[~inside & (hu > -900)])
    assert sitk.GetArrayFromImage(infection).any()
    assert read_json(job / "output/results.json")["research_use"] == RESEARCH_USE
    assert {path.name for path in (job / "output").iterdir()} == {"images", "results.json"}


@pytest.mark.parametrize("change_input", ["none", "two", "tif"])
def test_grand_challenge_gives_one_metaimage_a_job(job, change_input):
    [image] = (job / "input/images/ct").iterdir()
    if change_input == "two":
        shutil.copy(image, image.with_name("other.mha"))
    else:
        image.rename(image.with_suffix(".tif")) if change_input == "tif" else image.unlink()
    assert "wanted one MetaImage" in refused(invoke("platform", "auto", "--root", job))


@pytest.mark.slow
def test_a_platform_is_looked_after_as_a_scan_is(mercure, weights):
    """A worker that dies is replaced, by the process that Mercure waits for."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "COVCT_WEIGHTS": str(weights), "COVCT_SCAN_FORMATS": "seg"}
    ran = subprocess.run(
        [sys.executable, "-m", "support.threshold_cli", "platform", "auto", "--root", mercure.root],
        env=environment | {"COVCT_MISBEHAVE": "die 1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "killed by SIGKILL" in ran.stderr and (mercure.out / "result.json").is_file()
