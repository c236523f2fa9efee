"""The conformance statement says what the program does: compared with its tables, and with what it writes."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pydicom
import pytest

import covct
from covct import terms
from covct.dicom import header
from covct.dicom.evidence import SERIES_NUMBERS
from covct.dicom.syntaxes import SYNTAXES
from covct.outputs import SEG_TYPES, Outputs
from covct.unattended import batch
from support.thresholds import calibrated, make_networks, make_weights

STATEMENT = (Path(covct.__file__).parent / "dicom" / "CONFORMANCE.md").read_text()


def rows(section: str) -> list[list[str]]:
    """Cells of the table of a section, without its head."""
    text = re.split(r"^#{2,3} ", STATEMENT.split(f"{section}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


@pytest.fixture(scope="module")
def written(tmp_path_factory, phantom_series):
    """Every DICOM object of the phantom, by format and kind of SEG."""
    folder = tmp_path_factory.mktemp("conformance")
    weights = make_weights(folder / "weights")
    objects = {}
    for kind in SEG_TYPES:
        outputs = Outputs(("seg", "sr", "sc", "ko", "pdf"), kind)
        lobes = "atlas" if kind == "binary" else "none"
        order = batch.Order((phantom_series,), folder / kind, weights, outputs, lobes=lobes)
        assert batch.scan(order, lambda: calibrated(make_networks()), lambda event: None)["done"] == 1
        for path in sorted((folder / kind).glob("*/*/*.dcm")):
            name = path.suffixes[-2][1:]
            objects[f"seg ({kind})" if name == "seg" else name] = pydicom.dcmread(path)
    return objects


def test_sop_classes_read():
    assert {uid for uid, *_ in rows("### SOP classes")} == {header.CT_IMAGE, *header.MULTI_FRAME_CT}


def test_transfer_syntaxes_read():
    assert rows("### Transfer syntaxes") == [
        [uid, syntax.name, syntax.loss, syntax.decoder] for uid, syntax in SYNTAXES.items()
    ]


@pytest.mark.slow
def test_objects_written(written):
    stated = {
        name: (sop_class, syntax, int(number)) for name, sop_class, _, syntax, number, _ in rows("## What is written")
    }
    assert stated == {
        name: (one.SOPClassUID, one.file_meta.TransferSyntaxUID, one.SeriesNumber) for name, one in written.items()
    }
    assert {number for *_, number in stated.values()} == set(SERIES_NUMBERS.values())


@pytest.mark.slow
def test_every_object_is_marked_as_research_in_dicoms_own_attributes(written):
    for one in written.values():
        assert one.ContentQualification == "RESEARCH"
        assert "research use only" in one.SeriesDescription
        [equipment] = [
            item
            for item in one.ContributingEquipmentSequence
            if item.PurposeOfReferenceCodeSequence[0].CodeValue == terms.PROCESSING_EQUIPMENT.value
            and item.Manufacturer == "covct"
        ]
        assert equipment.ContributionDescription == covct.RESEARCH_USE


@pytest.mark.slow
def test_every_code_written_is_stated_and_every_code_stated_is_used(written):
    stated = {
        (scheme, code.strip("`"), meaning): set(where.split(", "))
        for scheme, code, meaning, where in rows("### Every code")
    }
    found: dict[tuple, set] = {}
    for name, one in written.items():
        for code in codes_in(one):
            found.setdefault(code, set()).add(name.split()[0].upper())
    for code, where in found.items():
        assert where <= stated[code], code
    ours = set(coded_terms(vars(terms).values()))
    assert ours <= set(stated), "a term of terms.py is not in the statement"
    assert set(stated) <= ours | set(found), "the statement names a code that is nowhere"


def codes_in(dataset):
    for element in dataset:
        if element.VR != "SQ":
            continue
        for item in element.value:
            if "CodeValue" in item:
                yield item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning
            yield from codes_in(item)


def coded_terms(values):
    for value in values:
        if isinstance(value, terms.CodedTerm):
            yield value.scheme, value.value, value.meaning
        elif isinstance(value, dict):
            yield from coded_terms(value.values())
        elif isinstance(value, tuple):
            yield from coded_terms(value)
        elif is_dataclass(value) and not isinstance(value, type):
            yield from coded_terms(getattr(value, field.name) for field in fields(value))
