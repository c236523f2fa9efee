import json

import pytest
from jsonschema import Draft202012Validator

from covct import RESEARCH_USE
from covct.terms import FIGURES
from support.example_report import SCHEMA, VALIDATOR, example_report


def errors(report) -> list[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(report)]


def without(path: str):
    report = example_report()
    *parents, key = path.split("__")
    place = report
    for parent in parents:
        place = place[parent]
    del place[key]
    return report


def objects(schema, path="$"):
    """Every subschema that lists an object's properties, those of the conditions left aside."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, inner in schema.items():
            if key != "allOf":
                yield from objects(inner, f"{path}.{key}")


def test_schema_is_itself_valid():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == "urn:covct:covct-report-1"


def test_whole_report_is_valid():
    assert errors(example_report()) == []


def test_report_survives_json():
    assert errors(json.loads(json.dumps(example_report()))) == []


def test_schema_names_the_program_s_research_use():
    assert SCHEMA["properties"]["research_use"]["const"] == RESEARCH_USE


def test_no_object_lets_unknown_keys_pass():
    open_ones = [path for path, schema in objects(SCHEMA) if schema["additionalProperties"] is not False]
    assert sorted(path.split(".")[-1] for path in open_ones) == ["arguments", "scores", "timings_s"], (
        "names of steps, scores and arguments are the program's affair"
    )


def test_every_key_is_required_and_described():
    for path, schema in objects(SCHEMA):
        assert set(schema.get("required", ())) == set(schema.get("properties", ())), path
        for name, inner in schema.get("properties", {}).items():
            target = SCHEMA["$defs"][inner["$ref"].split("/")[-1]] if "$ref" in inner else inner
            assert inner.get("description") or target.get("description"), f"{path}.{name}"


def test_units_stand_in_the_descriptions_of_quantities():
    units = {"_ml": "mL", "_mm": "mm", "_mm3": "mm³", "_hu": "Hounsfield", "_s": "econds", "_mib": "MiB"}
    for path, schema in objects(SCHEMA):
        for name, inner in schema.get("properties", {}).items():
            for suffix, unit in units.items():
                if name.endswith(suffix):
                    assert unit in inner["description"], f"{path}.{name}"


@pytest.mark.parametrize(
    "path, value",
    [
        ("regions__lungs__infection_percent", 101),
        ("regions__left_lung__infection_percent", -0.1),
        ("regions__lungs__volume_ml", -1),
        ("regions__lungs__thirds__upper__infection_percent", 100.5),
        ("regions__lungs__infection_ml", "532"),
        ("severity__class", 0),
        ("severity__class", 6),
        ("severity__class", 2.5),
        ("schema", "covct-report-2"),
        ("research_use", "For diagnosis."),
        ("work_key", "not a key"),
        ("source__format", "analyze"),
        ("source__instances", 0),
        ("geometry__row_spacing_mm", 0),
        ("geometry__patient_orientation", "FP"),
        ("valid_for__volume", "yes"),
        ("warnings", [{"slug": "Thick Slices", "message": "thick"}]),
        ("lesions__largest", [{"volume_ml": 1.0, "centroid_lps_mm": [0, 0], "side": "left_lung"}]),
        ("lesions__largest", [{"volume_ml": 1.0, "centroid_lps_mm": [0, 0, 0], "side": "left"}]),
        ("hu_bands__ground_glass", [-750]),
        ("networks__lungs__threshold", 1.5),
        ("run__device__kind", "tpu"),
        ("run__timings_s", {"load": -1}),
    ],
)
def test_value_out_of_range_is_refused_at_its_place(path, value):
    found = errors(example_report(**{path: value}))
    assert found, path
    assert all(place.startswith("$." + path.replace("__", ".")) for place in found)


@pytest.mark.parametrize(
    "path", ["research_use", "regions__left_lung", "regions__lungs__thirds__lower", "severity__class", "run__device"]
)
def test_missing_key_is_refused(path):
    assert errors(without(path))


@pytest.mark.parametrize("parent", ["", "source__", "regions__", "regions__lungs__", "severity__", "run__"])
def test_unknown_key_is_refused(parent):
    assert errors(example_report(**{f"{parent}patient_name": "Doe^Jane"}))


def test_empty_region_has_no_percentage():
    report = example_report(regions__left_lung__infection_percent=None, regions__left_lung__infection_mean_hu=None)
    assert errors(report) == []


def test_nifti_has_no_uids():
    report = example_report(
        source__format="nifti",
        source__study_instance_uid=None,
        source__series_instance_uid=None,
        source__frame_of_reference_uid=None,
        source__path="cohort/case-7.nii.gz",
        source__transfer_syntaxes=[],
    )
    assert errors(report) == []


def test_percentages_must_go_where_they_are_not_valid():
    report = example_report(valid_for__percent=False)
    refused = errors(report)
    assert "$.regions.lungs.infection_percent" in refused
    assert "$.regions.lungs.thirds.lower.infection_percent" in refused
    assert "$.severity.class" in refused


def test_volumes_must_go_where_they_are_not_valid():
    refused = errors(example_report(valid_for__volume=False))
    assert "$.regions.right_lung.volume_ml" in refused
    assert "$.regions.right_lung.thirds.upper.infection_ml" in refused
    assert not any("percent" in place for place in refused)


def test_bands_must_go_where_hounsfield_units_are_not_valid():
    report = example_report(valid_for__hu_bands=False)
    for region in report["regions"].values():
        region.update({figure.name: None for figure in FIGURES if "hu_bands" in figure.valid_for})
    assert errors(report) == []
    assert errors(example_report(valid_for__hu_bands=False))
