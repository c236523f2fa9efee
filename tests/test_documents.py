"""Documents on disk: what a message says of a damaged one, what is passed over, and the schemas that are published."""

import json

import jsonschema
import pytest
from pydantic import Field

from covct.commands.schemas import PUBLISHED, schema_path, schema_text
from covct.disk.documents import DamagedDocument, Document, Moment


class Lesion(Document):
    side: str
    volume_ml: float | None = Field(ge=0)


class Result(Document):
    status: str = Field(pattern="^[a-z]+$")
    slices: int = Field(ge=1)
    lesions: list[Lesion]
    finished: Moment = "2026-01-31T22:00:00+00:00"
    files: dict[str, str] = {}


WHOLE = {"status": "done", "slices": 3, "lesions": [{"side": "left", "volume_ml": 1.5}]}


def damaged(**changes):
    with pytest.raises(DamagedDocument) as caught:
        Result.parse(json.dumps({**WHOLE, **changes}), "result.json")
    return str(caught.value)


@pytest.mark.parametrize("document", PUBLISHED, ids=lambda one: one.PUBLISHED_AS)
def test_shipped_schema_is_the_one_of_the_class(document):
    """After a change: `make schemas`."""
    assert schema_path(document).read_text() == schema_text(document)
    jsonschema.Draft202012Validator.check_schema(document.json_schema())


def test_every_shipped_schema_has_its_class():
    package = schema_path(PUBLISHED[0]).parent.parent
    assert set(package.rglob("*.schema.json")) >= {schema_path(one) for one in PUBLISHED}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slices": "three"}, 'result.json: slices is "three", wanted a whole number'),
        ({"slices": 0}, "result.json: slices is 0, wanted at least 1"),
        ({"slices": True}, "result.json: slices is true, wanted a whole number"),
        ({"status": "DONE"}, 'result.json: status is "DONE", wanted a text like ^[a-z]+$'),
        ({"lesions": {}}, "result.json: lesions is an object, wanted a list"),
        ({"lesions": [{"volume_ml": None}]}, "result.json: lesions[0].side is missing"),
        ({"lesions": [{"side": "left", "volume_ml": float("nan")}]},
         "result.json: lesions[0].volume_ml is NaN, wanted a finite number"),
        ({"finished": "2026-01-31"}, 'result.json: finished is "2026-01-31", wanted a date and a time with its offset'),
        ({"slices": None, "lesions": None}, "slices is null, wanted a whole number (and 1 more fault)"),
    ],
)  # fmt: skip
def test_a_damaged_document_is_named_with_the_field(changes, said):
    assert said in damaged(**changes)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "it is not JSON"), ("[1]", "it is a list, wanted an object"), (b"\xff", "it is not JSON")],
)
def test_what_is_no_document_at_all_is_said(content, said):
    with pytest.raises(DamagedDocument, match=f"^result.json: {said}"):
        Result.parse(content, "result.json")


def test_messages_repeat_no_free_text():
    """It may be a path, and a path may hold a patient's name."""
    assert "Doe" not in damaged(slices="Doe^Jane, born 1950")
    assert "Doe" not in damaged(files={"Doe^Jane.dcm": 5})


def test_a_field_of_a_later_version_is_passed_over_unless_the_document_is_to_be_exact():
    later = json.dumps({**WHOLE, "lesions": [{"side": "left", "volume_ml": 1, "mass_g": 2}], "reviewed": 1})
    assert Result.parse(later, "result.json") == Result.parse(json.dumps(WHOLE), "result.json").replaced(
        lesions=[Lesion(side="left", volume_ml=1)]
    )
    with pytest.raises(DamagedDocument, match=r"lesions\[0\].mass_g is not known \(and 1 more fault\)"):
        Result.parse(later, "result.json", exact=True)


def test_a_changed_copy_is_validated_and_the_first_stays():
    first = Result.parse(json.dumps(WHOLE), "result.json")
    assert (first.replaced(slices=4).slices, first.slices) == (4, 3)
    with pytest.raises(ValueError, match="slices"):
        first.replaced(slices=0)


def test_what_is_written_is_read_back():
    first = Result.parse(json.dumps(WHOLE), "result.json")
    assert Result.parse(first.as_json(), "result.json", exact=True) == first
