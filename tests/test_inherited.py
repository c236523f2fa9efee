"""Whatever a source says wrongly, what is written of it is valid: every inherited attribute, spoiled in turn."""

import copy
import shutil
from dataclasses import asdict, replace

import pydicom
import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from covct.dicom.evidence import filled
from covct.intake.choice import Choice
from covct.intake.discover import discover
from covct.outputs import Outputs
from covct.pipeline.report import finished
from covct.pipeline.series import Clock, process
from covct.results.check_dicom import check_objects
from covct.results.dicom3tools import errors_of
from covct.results.writers import WRITERS
from support.objects import MAKING
from support.running import tool
from support.thresholds import make_networks

pytestmark = pytest.mark.slow

OUTPUTS = Outputs(formats=("seg", "sr", "ko", "sc", "pdf"))


def items(**values):
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return [item]


def coded():
    return items(CodeValue="CTCHEST", CodingSchemeDesignator="LOCAL", CodeMeaning="CT of the chest")


UNIVERSAL = {"UniversalEntityID": "1.2.3", "UniversalEntityIDType": "ISO"}
OF_A_STUDY = {"ReferencedSOPClassUID": "1.2.840.10008.3.1.2.3.1", "ReferencedSOPInstanceUID": "1.2.3.4"}
# Every attribute that an object of ours takes over of its source, with a valid value.
VALID = {
    "PatientName": "Nobody^Known", "PatientID": "X1", "PatientBirthDate": "19700101", "PatientSex": "F",
    "IssuerOfPatientID": "HOSPITAL", "TypeOfPatientID": "TEXT", "QualityControlSubject": "NO",
    "PatientIdentityRemoved": "YES", "DeidentificationMethod": "none", "DeidentificationMethodCodeSequence": coded(),
    "ReferencedPatientSequence": items(**OF_A_STUDY),
    "IssuerOfPatientIDQualifiersSequence": items(**UNIVERSAL, AssigningFacilitySequence=items(**UNIVERSAL)),
    "ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P", "ClinicalTrialProtocolName": "N",
    "ClinicalTrialSiteID": "1", "ClinicalTrialSiteName": "C", "ClinicalTrialSubjectID": "7",
    "IssuerOfClinicalTrialSubjectID": "C", "ClinicalTrialTimePointID": "T1",
    "ClinicalTrialTimePointDescription": "baseline", "LongitudinalTemporalOffsetFromEvent": 1.0,
    "LongitudinalTemporalEventType": "BASELINE", "ClinicalTrialTimePointTypeCodeSequence": coded(),
    "OtherClinicalTrialProtocolIDsSequence": items(
        ClinicalTrialProtocolID="Q", IssuerOfClinicalTrialProtocolID="I"
    ),
    "StudyDate": "20200101", "StudyTime": "120000", "AccessionNumber": "A", "StudyID": "1",
    "IssuerOfAccessionNumberSequence": items(**UNIVERSAL, LocalNamespaceEntityID="L"),
    "ReferringPhysicianName": "Doc^Tor", "StudyDescription": "Chest", "ProcedureCodeSequence": coded(),
    "ReferencedStudySequence": items(**OF_A_STUDY), "PatientAge": "050Y", "PatientSize": "1.7",
    "PatientSizeCodeSequence": coded(), "PatientWeight": "70.5", "PatientBodyMassIndex": "24",
    "MeasuredAPDimension": "250", "MeasuredLateralDimension": "300", "PositionReferenceIndicator": "XY",
    "SpecificCharacterSet": "ISO_IR 100", "ContentDate": "20200101", "ContentTime": "120000",
    "AcquisitionDate": "20200101", "AcquisitionTime": "120000", "AcquisitionDateTime": "20200101120000",
    "SeriesDate": "20200101", "SeriesTime": "120000", "Manufacturer": "M", "ManufacturerModelName": "MM",
    "InstitutionName": "I", "InstitutionAddress": "A\r\nB", "InstitutionalDepartmentName": "D", "StationName": "S",
    "DeviceSerialNumber": "1", "SoftwareVersions": ["1", "2"], "SliceThickness": "10", "SpacingBetweenSlices": "10",
    "LossyImageCompression": "01", "LossyImageCompressionRatio": "5", "LossyImageCompressionMethod": "ISO_10918_1",
    "InstanceNumber": "1", "AcquisitionNumber": "1",
}  # fmt: skip
# What breaks a value representation: too long, characters that it has not, control characters, several values for one.
SPOILED = {
    "AS": [b"45", b"0050", b"050y", b"50,5"],
    "CS": [b"lower", b"A" * 18, b"A\0B ", b"A-B "],
    "DA": [b"2020/01/01", b"20200230", b"01012020", b"\x01\x02"],
    "DS": [b"70,5", b"abc ", b"1.0000000000000000000", b"1\0002 ", b"nan ", b"1 2 "],
    "DT": [b"yesterday ", b"2020-01-01", b"20200101 120000 "],
    "FD": [b"1234567"],
    "IS": [b"1.5 ", b"99999999999", b"1\x001 "],
    "LO": [b"A" * 66, b"A\0B ", b"A\nB ", b"A\\B "],
    "PN": [b"A" * 66, b"A\0B ", b"A^B^C^D^E^F ", b"A=B=C=D "],
    "SH": [b"A" * 18, b"A\0B ", b"\x1b[31m", b"A\\B "],
    "ST": [b"A" * 1026, b"A\0B "],
    "TM": [b"25:00", b"2500", b"noon"],
    "UI": [b"1.2.x ", b"1" * 66, b"3f2504e0-4f89-11d3", b"1..2"],
}  # fmt: skip
KEEPS = {"SpecificCharacterSet"}  # what it says wrongly is told by how values are decoded


def places(values, above=()):
    """Every attribute at every depth: the path of keywords to it."""
    for keyword, value in values.items():
        yield (*above, keyword)
        if dictionary_VR(tag_for_keyword(keyword)) == "SQ":
            inner = {element.keyword: element.value for element in value[0]}
            yield from places(inner, (*above, keyword))


PLACES = list(places(VALID))
CASES = [
    (place, value)
    for place in PLACES
    for value in SPOILED.get(dictionary_VR(tag_for_keyword(place[-1])), [])
    if place[-1] not in KEEPS
]


def name_of(case):
    place, value = case
    return f"{'.'.join(place)}-{value[:12]!r}"


@pytest.fixture(scope="module")
def result(phantom_series, tmp_path_factory):
    """A few slices of the phantom segmented by thresholds, with every attribute in their headers."""
    folder = tmp_path_factory.mktemp("few")
    for path in sorted(phantom_series.iterdir())[14:17]:
        shutil.copy(path, folder)
    [series] = discover([folder]).series
    done = process(Choice(series, (), ()), make_networks, "0" * 64, Clock())
    for header in done.scan.headers:
        for keyword, value in VALID.items():
            setattr(header, keyword, copy.deepcopy(value))
    return done


def spoil(header, place, value):
    """The header with an element as a file would hold it: raw bytes, of any kind, at any depth."""
    spoiled = read_again(header)
    inner = spoiled
    for keyword in place[:-1]:
        inner = inner[keyword].value[0]
    tag = Tag(place[-1])
    inner[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
    spoiled.file_meta = header.file_meta
    return spoiled


def read_again(header):
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, header)
    stream.seek(0)
    again = pydicom.dcmread(stream, force=True)
    again.file_meta = header.file_meta
    return again


def written(result, spoiled, folder):
    """What is written where the first slice has this header: files, and covct's own defects."""
    scan = replace(result.scan, headers=(spoiled, *result.scan.headers[1:]))
    report = {**result.report, "source": {**result.report["source"], "filled": filled(scan.headers)}}
    for format_ in OUTPUTS.formats:
        WRITERS[format_](replace(result, scan=scan, report=report), folder, OUTPUTS, MAKING)
    paths = sorted(folder.glob("*.dcm"))
    run = {"device": asdict(result.device), "timings_s": {}, "peak_memory_mib": None}
    whole = finished(report, run)
    defects, _ = check_objects(paths, whole, None)
    return paths, [(defect.file, defect.slug, defect.message) for defect in defects], report["source"]["filled"]


def errors(paths):
    """dciodvfy's of each kind of object; of the captures, which share their header, the first."""
    judged = {path.name.split("-")[0]: path for path in reversed(paths)}.values()
    return [(p.name, error) for p in judged for error in errors_of([tool("dciodvfy"), "-new", str(p)], " = ")]


def test_what_is_valid_is_inherited(result, tmp_path):
    """Else the table below would show nothing."""
    paths, defects, told = written(result, read_again(result.scan.headers[0]), tmp_path)
    assert (defects, errors(paths), told) == ([], [], [])
    seg = pydicom.dcmread(tmp_path / "segmentation.seg.dcm", stop_before_pixels=True)
    for keyword in ("PatientAge", "PatientWeight", "ClinicalTrialSponsorName", "StudyDescription"):
        assert seg[keyword].value == result.scan.headers[0][keyword].value
    assert seg.ProcedureCodeSequence[0].CodeMeaning == "CT of the chest"


@pytest.mark.parametrize("place", PLACES[::13], ids=".".join)
@pytest.mark.parametrize("how", ["gone", "empty", "of another kind"])
def test_an_attribute_that_is_missing_is_missed_by_nobody(how, place, result, tmp_path):
    spoiled = read_again(result.scan.headers[0])
    inner = spoiled
    for keyword in place[:-1]:
        inner = inner[keyword].value[0]
    tag = Tag(place[-1])
    if how == "gone":
        del inner[tag]
    else:
        vr, value = (dictionary_VR(tag), b"") if how == "empty" else ("OB", b"\1\2\xff\xfe")
        inner[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    paths, defects, _ = written(result, spoiled, tmp_path)
    assert (defects, errors(paths)) == ([], [])


@pytest.mark.parametrize("case", CASES[::15], ids=name_of)
def test_an_attribute_that_is_not_valid_is_left_out(case, result, tmp_path):
    """Some of the table, judged by dciodvfy too: all of its 579 cases take a quarter of an hour."""
    place, value = case
    paths, defects, told = written(result, spoil(result.scan.headers[0], place, value), tmp_path)
    assert (defects, errors(paths)) == ([], [])
    assert place[0] == "SliceThickness" or any(place[0] in phrase for phrase in told)
