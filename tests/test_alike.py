"""Slices of a kind are read by a walk over their headers, and say what pydicom would have said."""

import io
import os
import shutil
from random import Random

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from covct.dicom import header as module
from covct.dicom.alike import MOST_KNOWN, Alike
from covct.dicom.header import HEADER_TAGS, read_header
from covct.dicom.patient import PATIENT_TAGS
from covct.disk.sources import SourceFile
from covct.errors import SeriesError
from covct.intake.discover import discover
from support import mutators

DAMAGE = {**mutators.ANY, **mutators.DICOM}


class Never:
    """In place of `Alike`: pydicom reads every file."""

    def walk(self, start):
        return None


@pytest.fixture
def alike(monkeypatch):
    """Kinds of slices met so far: none."""
    fresh = Alike([*HEADER_TAGS, *PATIENT_TAGS])
    monkeypatch.setattr(module, "ALIKE", fresh)
    return fresh


def dressed(dataset, undefined):
    """What a scanner's header has and a phantom's lacks: sequences, also within sequences, and private elements."""
    code, request = pydicom.Dataset(), pydicom.Dataset()
    code.CodeValue, code.CodeMeaning = "24627-2", "Chest CT"
    request.RequestedProcedureDescription, request.RequestedProcedureCodeSequence = "Chest", [code, code]
    dataset.RequestAttributesSequence, dataset.ProcedureCodeSequence = [request, request], [code]
    block = dataset.private_block(0x0009, "COVCT", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "OB", bytes(range(64)))
    for one in (dataset, request):
        for element in one:
            if element.VR == "SQ":
                element.is_undefined_length = undefined
    for one in (code, request):
        one.is_undefined_length_sequence_item = undefined
    return dataset


def stored(dataset, syntax):
    out = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    implicit = syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(out, dataset, implicit_vr=implicit, little_endian=True, force_encoding=True)
    return out.getvalue()


@pytest.fixture(scope="module", params=[(e, u) for e in ("explicit", "implicit") for u in (False, True)], ids=str)
def slices(request, phantom_series):
    """Contents of three slices of a series."""
    encoding, undefined = request.param
    syntax = ExplicitVRLittleEndian if encoding == "explicit" else ImplicitVRLittleEndian
    paths = sorted(phantom_series.iterdir())[:3]
    return [stored(dressed(pydicom.dcmread(path), undefined), syntax) for path in paths]


def said(path):
    try:
        return read_header(SourceFile(str(path)))
    except SeriesError as error:
        return error.slug, error.message


def by_pydicom(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "ALIKE", Never())
        return said(path)


def test_slices_of_a_kind_are_not_parsed_again(slices, alike, tmp_path, monkeypatch):
    path = tmp_path / "a.dcm"
    parsed = []
    whole = module.read_dataset
    monkeypatch.setattr(module, "read_dataset", lambda *a, **k: parsed.append(path) or whole(*a, **k))
    for number, contents in enumerate(slices):
        path.write_bytes(contents)
        header = said(path)
        assert len(parsed) == 1, number
        assert header == by_pydicom(path, monkeypatch) and repr(header) == repr(by_pydicom(path, monkeypatch))
        parsed[1:] = []


def test_whatever_is_damaged_says_what_pydicom_says(slices, tmp_path, monkeypatch):
    """The kinds of the fuzz corpus, in what was met before, in what is met, and in both alike."""
    path, taken = tmp_path / "a.dcm", 0
    for number, (name, damage) in enumerate(sorted(DAMAGE.items()) * 2):
        alike = Alike([*HEADER_TAGS, *PATIENT_TAGS])
        monkeypatch.setattr(module, "ALIKE", alike)
        first, second = (damage(one, Random(number)) for one in slices[:2])
        for contents in (slices[0], first, second, damage(first, Random(-number)), slices[2]):
            path.write_bytes(contents)
            walked = alike.walk(contents[: module.HEADER_BYTES[0]])
            taken += bool(walked and alike.recall(walked, SourceFile(str(path))))
            assert repr(said(path)) == repr(by_pydicom(path, monkeypatch)), (name, number)
    assert taken > 40  # else nothing was tried


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        (
            "ImagePositionPatient",
            [b"1,5\\2\\3 ", b"1\\2 ", b"1\\2\\3\\4 ", b"1e3\\2\\3 ", b"nan\\2\\3 ", b" 1\\2\\3", b""],
        ),
        ("InstanceNumber", [b"1.0 ", b"-1", b"+1", b"99999999999 ", b"1\\2 ", b"", b"\0\0"]),
        ("SOPInstanceUID", [b"1.2.3 ", b"1..2", b"01.2", b"a1", b"", b"1.2\\1.3 ", b"1." + b"2" * 70]),
    ],
)
def test_values_that_differ_are_taken_only_where_plain(tag, values, slices, alike, tmp_path, monkeypatch):
    path = tmp_path / "a.dcm"
    path.write_bytes(slices[0])
    assert said(path).study_uid
    layout, elements = mutators.walk(slices[1])
    [element] = [one for one in elements if one.tag == int(pydicom.tag.Tag(tag)) and not one.depth]
    for value in values:
        path.write_bytes(mutators._with_value(slices[1], layout, element, value))
        assert repr(said(path)) == repr(by_pydicom(path, monkeypatch)), value


@pytest.mark.parametrize("keyword", [*PATIENT_TAGS, "SpecificCharacterSet"])
def test_no_slice_gets_another_patient(keyword, series_folder, alike, monkeypatch):
    """Same series, same UIDs, one value of one header changed: it is not of a kind with the others."""
    first, second, *_ = sorted(series_folder.iterdir())
    for path in (first, second):
        dataset = pydicom.dcmread(path)
        dataset.PatientID, dataset.IssuerOfPatientID, dataset.PatientName = "1", "A", "Müller^A"
        dataset.PatientBirthDate, dataset.PatientSex, dataset.SpecificCharacterSet = "19500101", "F", "ISO_IR 100"
        if path == second:
            other = {"PatientBirthDate": "19500102", "PatientSex": "M", "SpecificCharacterSet": "ISO_IR 144"}
            setattr(dataset, keyword, other.get(keyword, "Other"))
        dataset.save_as(path)
    one, two = said(first), said(second)
    assert two == by_pydicom(second, monkeypatch)
    if keyword != "SpecificCharacterSet":
        assert one.instances[0].patient != two.instances[0].patient


def test_a_tree_in_any_order_says_the_same(phantom_series, alike, tmp_path, monkeypatch):
    rng = Random(4)
    paths = sorted(phantom_series.iterdir())
    for patient, damage in enumerate([None, "missing_tag", "cut_short", "change_vr"]):
        for number, path in enumerate(paths[:8]):
            dataset = pydicom.dcmread(path)
            dataset.PatientID = str(patient)
            dataset.StudyInstanceUID += f".{patient}"
            contents = stored(dataset, ExplicitVRLittleEndian)
            if damage and number % 2:
                contents = DAMAGE[damage](contents, rng)
            (tmp_path / f"{rng.random()}.dcm").write_bytes(contents)
    shutil.make_archive(str(tmp_path / "beside"), "zip", phantom_series)
    found = discover([tmp_path])
    monkeypatch.setattr(module, "ALIKE", Never())
    assert repr(found) == repr(discover([tmp_path]))
    assert len(found.series) >= 4


def test_what_is_kept_is_bounded(slices, alike, tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(slices[0])
    header = said(path)
    walked = alike.walk(slices[0])
    for number in range(3 * MOST_KNOWN):
        other = type(walked)((*walked.shared, (number, b"LO", os.urandom(4))), walked.own)
        alike.remember(other, header)
        assert len(alike._known) <= MOST_KNOWN
