"""Results as FHIR Bundles: valid, the same as the SR in value and code, naming nobody unless told to."""

import json
import re
import shutil

import pydicom
import pytest

from covct import terms
from covct.dicom.sr_groups import groups_of
from covct.errors import UsageError
from covct.exchange.fhir import OWN_CODES, SYSTEMS, bundle_of
from covct.outputs import Outputs
from support.example_report import example_report
from support.line import segmented_tree
from support.objects import items
from support.running import invoke

FOLDER = "1.2/1.2.3"


def validated(bundle):
    """As the public FHIR library has it: R4B, in which these resources are those of R4."""
    library = pytest.importorskip("fhir.resources.R4B.bundle")
    library.Bundle.model_validate_json(json.dumps(bundle))
    return bundle


def resources(bundle, kind):
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def withheld(report):
    """The same report of a scan that allows no figures of whole lungs."""
    for kind in ("volume", "percent", "hu_bands"):
        report["valid_for"][kind] = False
        for figure in terms.FIGURES:
            if kind in figure.valid_for:
                for region in report["regions"].values():
                    region[figure.name] = None
                    region.pop(f"{figure.name}_interval", None)
                    for third in region["thirds"].values():
                        third.update({figure.name: None} if figure.in_thirds else {})
    report["severity"] |= {"class": None, "label": "withheld"}
    report["lesions"]["largest"][0]["volume_ml"] = None
    return report


@pytest.mark.parametrize("held", [{"seg": "binary", "sr": ""}, {"seg": "labelmap"}, {}])
def test_a_bundle_is_valid_whatever_the_result_holds(held):
    bundle = validated(bundle_of(example_report(), held, FOLDER))
    [document] = resources(bundle, "DiagnosticReport")
    assert document["status"] == "preliminary"
    assert document["conclusion"].startswith("Research use only. Not a medical device.")
    kinds = [one["type"]["coding"][0]["code"] for one in document["identifier"] if "type" in one]
    assert kinds == ["sop-instance-uid"] * len(held)
    assert document["imagingStudy"][0]["identifier"]["value"] == "urn:oid:1.2.826.0.1.3680043.8.498.1"


def test_every_reference_leads_to_a_resource_of_the_bundle_and_none_is_there_twice():
    bundle = bundle_of(example_report(), {"seg": "binary"}, FOLDER)
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls)
    assert set(re.findall(r'"reference": "([^"]+)"', json.dumps(bundle))) == set(urls) - {urls[0]}


def test_figures_have_value_unit_and_interval_in_the_codes_of_the_sr():
    report = example_report()
    bundle = bundle_of(report, {"seg": "binary"}, FOLDER)
    observed = [one for one in resources(bundle, "Observation") if "valueQuantity" in one]
    measured = [one for group in groups_of(report, Outputs()) for one in group.measured]
    assert [one["valueQuantity"]["value"] for one in observed] == [one.value for one in measured]
    assert [one["valueQuantity"]["code"] for one in observed] == [one.figure.unit.code.value for one in measured]
    assert [one["code"]["coding"][0]["code"] for one in observed] == [one.name.value for one in measured]
    [share] = [
        one for one in observed if one["bodySite"]["text"] == terms.CALLED and one["valueQuantity"]["code"] == "%"
    ]
    upper, lower = (part["valueQuantity"]["value"] for part in share["component"])
    value = 100 * 540 / 4400
    assert (upper, lower) == (pytest.approx(0.3 * value, abs=0.01), pytest.approx(0.2 * value, abs=0.01))
    assert "interval of level 0.9, of 40 people" in share["note"][0]["text"]
    [severity] = [one for one in resources(bundle, "Observation") if one["code"]["coding"][0]["code"] == "246112005"]
    assert severity["valueCodeableConcept"]["coding"][0] == {
        "system": OWN_CODES, "code": "ct-ss-2", "display": terms.SEVERITY_CLASSES[2].meaning,
    }  # fmt: skip


def test_withheld_figures_are_absent_with_the_reason_and_never_zero():
    bundle = validated(bundle_of(withheld(example_report()), {"seg": "binary"}, FOLDER))
    figures = [one for one in resources(bundle, "Observation") if "hasMember" not in one]
    assert figures and not any(key.startswith("value") for one in figures for key in one)
    told = {tuple(code["code"] for code in one["dataAbsentReason"]["coding"]) for one in figures}
    assert told == {("not-performed", "114007")}
    [document] = resources(bundle, "DiagnosticReport")
    assert "The input does not allow: volumes;" in document["conclusion"]


def test_codes_have_the_systems_of_their_schemes():
    text = json.dumps(bundle_of(example_report(), {"seg": "binary"}, FOLDER))
    assert re.fullmatch(r"urn:oid:2\.25\.[1-9]\d+", OWN_CODES)
    assert set(re.findall(r'"system": "([^"]+)"', text)) >= {SYSTEMS[one] for one in ("SCT", "DCM", "UCUM", "99COVCT")}
    assert {code.scheme for code in vars(terms).values() if isinstance(code, terms.CodedTerm)} <= set(SYSTEMS)


def test_a_report_of_an_earlier_version_has_no_thirds():
    bundle = validated(bundle_of(example_report(thirds=None, since=None, uncertainty=None), {}, FOLDER))
    assert not re.search("third", json.dumps(bundle))


def test_a_redone_series_replaces_and_another_one_does_not():
    def urls(folder, **changes):
        return {entry["request"]["url"] for entry in bundle_of(example_report(**changes), {}, folder)["entry"]}

    assert urls(FOLDER) == urls(FOLDER, work_key="f" * 64)
    assert len(urls(FOLDER) & urls("1.2/1.2.4")) == 1  # the device


# Of a tree


@pytest.fixture(scope="module")
def out(phantom_series, tmp_path_factory):
    return segmented_tree([phantom_series], tmp_path_factory.mktemp("fhir") / "out", formats=("seg", "sr"))


def test_the_export_agrees_with_the_sr_and_names_nobody(out, tmp_path):
    result = invoke("export", "fhir", out, "--to", tmp_path / "fhir")
    assert result.exit_code == 0 and "1 written" in result.stderr
    [path] = (tmp_path / "fhir").glob("*/*.json")
    bundle = validated(json.loads(path.read_text()))
    document = pydicom.dcmread(next(out.glob("*/*/measurements.sr.dcm")))
    [measurements] = [one for one in document.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "126010"]
    numbers = [
        (item.ConceptNameCodeSequence[0].CodeValue, float(item.MeasuredValueSequence[0].NumericValue))
        for item in items(measurements)
        if item.ValueType == "NUM"
    ]
    told = [
        (each["code"]["coding"][0]["code"], each["valueQuantity"]["value"])
        for one in resources(bundle, "Observation")
        for each in (one, *one.get("component", ()))
        if "valueQuantity" in each
    ]
    assert sorted(told) == sorted(numbers)
    assert f"urn:oid:{document.SOPInstanceUID}" in path.read_text()
    assert "subject" not in path.read_text() and str(document.PatientID) not in path.read_text()
    assert str(document.StudyDate) not in path.read_text()
    [observed] = {one["issued"] for one in resources(bundle, "Observation")}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", observed)


def test_exported_again_nothing_is_written(out, tmp_path):
    invoke("export", "fhir", out, "--to", tmp_path / "fhir")
    [path] = (tmp_path / "fhir").glob("*/*.json")
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert "1 unchanged" in invoke("export", "fhir", out, "--to", tmp_path / "fhir").stderr
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    [line] = invoke("export", "fhir", out).stdout.splitlines()
    assert json.loads(line) == json.loads(before[0])


def test_whose_it_is_where_that_is_asked_for(out):
    [line] = invoke("export", "fhir", out, "--show-identifiers").stdout.splitlines()
    bundle = validated(json.loads(line))
    patient = pydicom.dcmread(next(out.glob("*/*/*.sr.dcm"))).PatientID
    for one in (*resources(bundle, "Observation"), *resources(bundle, "DiagnosticReport")):
        assert one["subject"]["identifier"]["value"] == patient
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", one["effectiveDateTime"])


def test_a_damaged_result_is_named_and_the_others_are_exported(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    [place] = [path.parent for path in copy.glob("*/*/report.json")]
    shutil.copytree(place, place.with_name("1.9"))
    (place / "report.json").write_text("{")
    result = invoke("export", "fhir", copy)
    assert result.exit_code == 3 and len(result.stdout.splitlines()) == 1
    assert "not exported" in result.stderr
    with pytest.raises(UsageError, match="no results tree of covct"):
        raise invoke("export", "fhir", tmp_path / "nowhere").exception
