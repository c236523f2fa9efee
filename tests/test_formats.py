"""The table of output formats: each row has its writer, and what follows the table needs no more than the row."""

from datetime import datetime

import pytest

from covct import outputs
from covct.outputs import DICOM_FORMATS, FORMATS, Format, Outputs, formats_for
from covct.results.entries import Entry
from covct.results.page import as_html
from covct.results.verify import CHECKERS
from covct.results.writers import WRITERS


def test_every_format_has_its_writer_and_only_formats_have_checkers():
    assert set(WRITERS) == set(FORMATS)
    assert set(CHECKERS) <= set(FORMATS) - set(DICOM_FORMATS)


def test_rows_are_told_apart():
    files = [name for one in FORMATS.values() for name in one.files]
    numbers = [FORMATS[name].series_number for name in DICOM_FORMATS]
    assert len(set(files)) == len(files) and len(set(numbers)) == len(numbers)
    assert all(set(one.needs) <= set(FORMATS) for one in FORMATS.values())
    for one in FORMATS.values():
        assert any(name.endswith(".dcm") for name in one.files) == (one.series_number is not None)


def test_what_is_written_by_default():
    assert Outputs().formats == ("seg", "sr", "pdf", "page")


@pytest.mark.parametrize(
    ("kind", "wanted", "referable", "written"),
    [
        ("dicom", ("png", "sr"), True, ("seg", "sr", "png")),
        ("dicom", ("ko", "sc"), True, ("sc", "ko")),
        ("dicom", ("sr", "png"), False, ("nifti", "png")),
        ("nifti", ("seg",), True, ("nifti",)),
        ("nifti", ("seg", "pdf"), True, ("pdf", "nifti")),
        ("dicom", (), True, ()),
    ],
)
def test_formats_bring_along_what_they_need(kind, wanted, referable, written):
    assert formats_for(kind, wanted, referable) == written


def test_files_are_known_by_their_format():
    names = ["capture-0001.sc.dcm", "capture-0012.sc.dcm", "lungs.nii.gz", "capture-x.sc.dcm.tmp"]
    assert FORMATS["sc"].among(names) == names[:2]
    assert FORMATS["sc"].name(12) == names[1]
    assert FORMATS["png"].among(names) == []


def test_the_page_links_to_a_new_format(monkeypatch):
    monkeypatch.setitem(outputs.FORMATS, "mesh", Format("surfaces", {"lesion-*.stl": "surface"}))
    files = ("report.json", "lesion-0001.stl", "lesion-0002.stl")
    html = as_html([Entry("1.2/3", "done", files=files)], datetime(2026, 1, 1))
    assert 'href="1.2/3/lesion-0001.stl">surface 1 of 2<' in html
