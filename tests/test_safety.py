"""Attacks: what whoever may write into an inbox, a weights folder or an output tree could try. Each test is one."""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

import covct
from covct.disk import archives
from covct.disk.outcome import read_outcome
from covct.disk.sources import SourceFile, read_all
from covct.errors import SeriesError, WeightsError
from covct.intake.discover import discover, safe_name
from covct.intake.volume_file import read_volume
from covct.networks.cards import file_sha256, read_card
from covct.networks.weights_file import read_arrays
from covct.outputs import Outputs
from covct.results.entries import read_tree
from covct.results.page import as_html
from covct.results.summary import write_summary
from covct.results.verify import verify
from covct.unattended.batch import Order, scan
from covct.unattended.convert import Conversion, convert
from support.pages import Elements

MIB = 1024**2
PACKAGE = Path(covct.__file__).parent


def change(folder: Path, **attributes) -> None:
    """Set attributes in every file of a folder; a function is given the file's index."""
    with pydicom.config.disable_value_validation():
        for index, path in enumerate(sorted(folder.glob("*.dcm"))):
            dataset = pydicom.dcmread(path)
            for name, value in attributes.items():
                setattr(dataset, name, value(index) if callable(value) else value)
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.save_as(path)


def reasons(*places: Path) -> list[str]:
    return [problem.message for problem in discover(places).problems]


@pytest.fixture
def memory_limit():
    """Fails where more than 200 MiB of Python's memory were in use at once."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * MIB


@pytest.fixture
def order(series_folder, tmp_path, weights) -> Order:
    return Order((series_folder,), tmp_path / "out", weights, Outputs(("seg", "sr", "sc", "ko", "pdf", "png")))


# What lies in the inbox


def test_fifo_socket_and_device_are_never_opened(series_folder, monkeypatch):
    """Opening a FIFO waits for a writer for ever, reading a device may never end."""
    os.mkfifo(series_folder / "pipe.dcm")
    os.mkfifo(series_folder / "pipe.zip")
    (series_folder / "zero.dcm").symlink_to("/dev/zero")
    opened = []
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(str(path)) or really_open(path, *rest))
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(series_folder)  # a socket's path has at most 107 characters
        listening.bind("socket.dcm")
        os.chdir(here)
        found = discover([series_folder])
    assert len(found.series[0].instances) == 30
    assert set(opened) == {str(instance.file.path) for instance in found.series[0].instances}


@pytest.mark.parametrize("name", ["a.dcm", "a.zip", "a.nii"])
def test_file_that_becomes_a_fifo_between_look_and_open_does_not_hang(name, tmp_path):
    os.mkfifo(tmp_path / name)
    file = SourceFile(str(tmp_path / name), "member.dcm" if name == "a.zip" else "")
    caught: list[Exception] = []

    def read():
        try:
            list(read_all([file]))
        except SeriesError as error:
            caught.append(error)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(10)
    assert not reading.is_alive()
    assert "not a regular file" in str(caught[0])


def test_link_out_of_the_source_is_named_and_not_followed(series_folder, tmp_path):
    """Who may write into the inbox must not get at what only covct may read."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "other").symlink_to(series_folder)
    (inbox / "one.dcm").symlink_to(sorted(series_folder.iterdir())[0])
    found = discover([inbox])
    assert not found.series
    [problem] = found.problems
    assert problem.message == "2 links lead outside the sources; name their targets as sources too"
    assert len(discover([inbox, series_folder]).series[0].instances) == 30


def test_links_within_the_source_and_a_source_that_is_a_link_are_followed(series_folder, tmp_path):
    (tmp_path / "inbox").symlink_to(series_folder)
    path = sorted(series_folder.iterdir())[0]
    (series_folder / "hidden-away").mkdir()
    path = path.rename(series_folder / "hidden-away" / path.name)
    (series_folder / path.name).symlink_to(path)
    found = discover([tmp_path / "inbox"])
    assert len(found.series[0].instances) == 30
    assert not found.problems


def test_neighbour_whose_name_begins_like_the_source_is_outside(series_folder, tmp_path):
    inbox, neighbour = tmp_path / "in", tmp_path / "in-of-another"
    shutil.copytree(series_folder, neighbour)
    inbox.mkdir()
    (inbox / "link").symlink_to(neighbour)
    assert not discover([inbox]).series


@pytest.mark.parametrize("target", [".", "..", "loop", "absent"])
def test_link_loops_end(target, series_folder):
    (series_folder / "loop").symlink_to(target)
    found = discover([series_folder])
    assert len(found.series[0].instances) == 30
    assert len(found.series[0].twins) == 0


def test_folders_nested_by_the_thousand(series_folder):
    """Deeper than Python recurses."""
    here = os.open(series_folder, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert len(discover([series_folder]).series[0].instances) == 30
    finally:  # pytest's own removal recurses too
        subprocess.run(["rm", "-rf", series_folder / "d"], check=True)


def test_folder_that_may_not_be_listed_is_named_and_the_rest_is_read(series_folder, monkeypatch):
    (series_folder / "closed").mkdir()
    really = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = discover([series_folder])
    assert len(found.series[0].instances) == 30
    assert [p.message for p in found.problems] == ["the folder cannot be listed: Permission denied"]


@pytest.mark.parametrize("name", ["huge.dcm", "huge.nii", "huge.nii.gz", "huge.zip", "huge"])
def test_sparse_file_of_10_tb_is_not_read(name, tmp_path, memory_limit):
    with open(tmp_path / name, "wb") as file:
        try:
            file.truncate(10 * 1024**4)
        except OSError as error:
            pytest.skip(f"no such large file here: {error}")
    found = discover([tmp_path])
    assert len(found.problems) + found.ignored == 1
    assert not found.series


def test_slice_with_10_tb_of_nothing_behind_it_is_refused_when_it_is_loaded(
    order, series_folder, networks, memory_limit
):
    """Its header is as good as any."""
    with open(sorted(series_folder.iterdir())[3], "r+b") as file:
        try:
            file.truncate(10 * 1024**4)
        except OSError as error:
            pytest.skip(f"no such large file here: {error}")
    told: list[dict] = []
    scan(order, lambda: networks, told.append)
    [rejected] = [event for event in told if event["event"] == "rejected"]
    assert rejected["slug"] == "unreadable"
    assert "at most 67108864 are read" in rejected["message"]


def test_header_without_end_is_not_read_to_its_end(series_folder, tmp_path, memory_limit):
    """One element that says it has 4 GiB, before everything that matters."""
    whole = sorted(series_folder.iterdir())[0].read_bytes()
    start = whole.index(b"\x08\x00\x05\x00") if b"\x08\x00\x05\x00" in whole else whole.index(b"\x08\x00\x08\x00")
    path = tmp_path / "endless.dcm"
    element = b"\x07\x00\x10\x10" + b"OB\0\0" + struct.pack("<L", 0xFFFFFFF0)
    path.write_bytes(whole[:start] + element)
    os.truncate(path, 5 * 1024**3)
    [problem] = discover([path]).problems
    assert "its header does not end within 67108864 bytes" in problem.message


def test_gzip_bomb_that_calls_itself_a_nifti(tmp_path, memory_limit):
    """Zeros behind an honest header: a quarter of a megabyte on disk."""
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    with gzip.open(tmp_path / "bomb.nii.gz", "wb", compresslevel=9) as file:
        file.write(image.to_bytes())
        for _ in range(16):
            file.write(bytes(16 * MIB))
    with pytest.raises(SeriesError, match="swells beyond"):
        read_volume(tmp_path / "bomb.nii.gz")


def test_nifti_that_declares_more_voxels_than_there_are(tmp_path, memory_limit):
    nibabel = pytest.importorskip("nibabel")
    whole = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes())
    whole[40:56] = struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
    (tmp_path / "a.nii").write_bytes(whole)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole))
    for name in ("a.nii", "b.nii.gz"):
        with pytest.raises(SeriesError) as caught:
            read_volume(tmp_path / name)
        assert caught.value.slug == "unreadable"


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.dcm", b"new\nline.dcm", b"\x1b]0;title\x07.dcm", "‮mcd.dcm".encode(), b"<b>&'\".dcm"]
)
def test_file_names_that_command_a_terminal_or_forge_a_line(name, tmp_path):
    (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))).write_bytes(b"no dicom")
    [problem] = discover([tmp_path]).problems
    assert problem.label.isprintable()
    assert problem.label.encode()


# Archives


def packed(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes], method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, contents in members:
            archive.writestr(name, contents)
    return path


def a_slice(folder: Path) -> bytes:
    return sorted(folder.iterdir())[0].read_bytes()


def test_member_that_declares_less_than_it_swells_to(tmp_path, memory_limit):
    """The directory says 4 KiB; deflate gives a quarter of a GiB. Only what was declared is inflated."""
    path = packed(tmp_path / "liar.zip", ("a.dcm", bytes(256 * MIB)))
    contents = bytearray(path.read_bytes())
    entry = contents.index(b"PK\x01\x02")
    contents[entry + 24 : entry + 28] = struct.pack("<L", 4096)
    path.write_bytes(contents)
    tracemalloc.reset_peak()  # making it took memory
    [problem] = discover([path]).problems
    assert problem.slug == "unreadable"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_cannot_be_bounded_is_refused_unread(method, series_folder, tmp_path):
    packed(tmp_path / "odd.zip", ("a.dcm", a_slice(series_folder)), method=method)
    assert "wanted none or deflate" in reasons(tmp_path / "odd.zip")[0]


def test_members_that_overlap(series_folder, tmp_path):
    """One kernel of bytes under many names: the directory alone makes terabytes."""
    path = packed(tmp_path / "overlap.zip", ("a.dcm", a_slice(series_folder)))
    whole = path.read_bytes()
    entry, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    count = 50
    directory = whole[entry:end] * count
    ending = whole[end : end + 8] + struct.pack("<HHLL", count, count, len(directory), entry) + b"\0\0"
    path.write_bytes(whole[:entry] + directory + ending)
    assert len(zipfile.ZipFile(path).infolist()) == count
    assert "overlap" in reasons(path)[0]


def test_archive_within_an_archive_is_not_opened(series_folder, tmp_path):
    """Ratios of nested archives multiply: 42.zip has 4 PB."""
    packed(tmp_path / "inner.zip", ("a.dcm", a_slice(series_folder)))
    packed(tmp_path / "outer.zip", ("inner.zip", (tmp_path / "inner.zip").read_bytes()))
    found = discover([tmp_path / "outer.zip"])
    assert (found.series, found.ignored) == ((), 1)


def test_member_without_a_name(series_folder, tmp_path):
    """Python's own question whether it is a folder fails at it, and ended the night."""
    archive = packed(tmp_path / "a.zip", ("nameless", b""), ("a.dcm", a_slice(series_folder)))
    archive.write_bytes(archive.read_bytes().replace(b"nameless", b"\0ameless"))
    assert sum(len(series.instances) for series in discover([archive]).series) == 1


def test_members_beyond_number(tmp_path, monkeypatch):
    """zipfile makes an object of each: a GB of empty members would take twenty in memory."""
    monkeypatch.setattr(archives, "LARGEST_DIRECTORY", 10_000)
    packed(tmp_path / "many.zip", *((f"{i:06d}", b"") for i in range(300)))
    [reason] = reasons(tmp_path / "many.zip")
    assert "its directory has" in reason and "at most 10000 are read" in reason


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_member_that_is_a_link_or_a_device(kind, series_folder, tmp_path):
    member = zipfile.ZipInfo("link.dcm")
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    packed(tmp_path / "links.zip", (member, b"/etc/shadow"), ("a.dcm", a_slice(series_folder)))
    found = discover([tmp_path / "links.zip"])
    assert len(found.series) == 1
    assert [p.message for p in found.problems] == ["the archive member is a link or a device, wanted a file"]


@pytest.mark.parametrize("name", ["/etc/passwd.dcm", "../../out.dcm", "C:\\out.dcm", "a/../../b.dcm", "x" * 5000])
def test_member_names_lead_nowhere(name, series_folder, tmp_path):
    """Nothing is extracted, so that a name is only a name."""
    before = sorted(tmp_path.iterdir())
    packed(tmp_path / "a.zip", (name, a_slice(series_folder)))
    [series] = discover([tmp_path / "a.zip"]).series
    assert next(read_all([series.instances[0].file]))[1] == a_slice(series_folder)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.zip", *before]


def test_encrypted_member_is_named(series_folder, tmp_path):
    path = packed(tmp_path / "secret.zip", ("a.dcm", a_slice(series_folder)))
    contents = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        contents[contents.index(mark) + offset] |= 1
    path.write_bytes(contents)
    assert reasons(path) == ["the archive member is encrypted"]


def test_archive_that_is_replaced_between_look_and_read(series_folder, tmp_path):
    path = packed(tmp_path / "a.zip", ("a.dcm", a_slice(series_folder)))
    [series] = discover([path]).series
    packed(path, ("a.dcm", bytes(64 * MIB)))
    with pytest.raises(SeriesError, match="zip bomb"):
        list(read_all([series.instances[0].file]))


# Identifiers that become paths


@pytest.mark.parametrize(
    "uid",
    [
        "../../etc", "..", ".", "/etc", "1.2.", ".1.2", "1..2", "1.2 ", " 1.2", "1.2\n", "1.2\0", "CON", "nul", "AUX.1",
        "a" * 300, "1" * 65, "1." * 200 + "1", "１.２", "٣.١", "1.2\u202e", "uid-0", "1/2", "1\\2", "~", "-1", "%2e%2e",
    ],
)  # fmt: skip
def test_what_is_no_uid_never_becomes_a_name(uid):
    name = safe_name(uid)
    assert re.fullmatch(r"uid-[0-9a-f]{32}", name)


def test_uids_that_differ_never_share_a_folder():
    """Nor where capitals do not matter, or dots and spaces at the end are dropped, as on SMB."""
    uids = ["1.2", "1.2.", "1.2..", "1.2 ", "1.2.0", "01.2", "A.1", "a.1", "a.1.", "A.1 ", "", "1.2\0"]
    assert len({safe_name(uid).lower().rstrip(". ") for uid in uids}) == len(uids)


@pytest.mark.parametrize(
    "uid", ["../../../../evil", "1.2.", "CON", "x" * 64, "1.2.3\\..\\..", "<script>alert(1)</script>"]
)
def test_study_with_a_hostile_uid_stays_below_the_output(uid, order, series_folder, networks, tmp_path):
    before = set(tmp_path.iterdir())
    change(series_folder, StudyInstanceUID=uid, SeriesInstanceUID=uid, FrameOfReferenceUID=uid)
    scan(order, lambda: networks, lambda event: None)
    assert set(tmp_path.iterdir()) - before == {order.out}
    [outcome] = order.out.glob("*/*/outcome.json")
    assert all(re.fullmatch(r"uid-[0-9a-f]{32}", part) for part in outcome.parts[-3:-1])
    assert "<script>alert" not in (order.out / "index.html").read_text()


@pytest.mark.parametrize("uid", ["../../../../evil", "..", "1.2.", "x" * 300])
def test_converted_study_with_a_hostile_uid_stays_below_the_output(uid, series_folder, tmp_path):
    before = set(tmp_path.iterdir())
    change(series_folder, StudyInstanceUID=uid, SeriesInstanceUID=uid)
    counts = convert(Conversion((series_folder,), tmp_path / "out"), lambda event: None)
    assert counts["converted"] == 1
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"}
    [path] = (tmp_path / "out").glob("*/*.nii.gz")
    assert re.fullmatch(r"uid-[0-9a-f]{32}/uid-[0-9a-f]{32}\.nii\.gz", f"{path.parent.name}/{path.name}")


@pytest.mark.parametrize("value", ["9" * 300, "1e300", "-9999999999999999"])
def test_acquisition_number_of_300_digits_does_not_stop_the_night(value, order, series_folder, networks, tmp_path):
    """It became part of a folder's name, which no file system takes: our own disk was thought to fail."""
    second = shutil.copytree(series_folder, series_folder / "second")
    change(series_folder, AcquisitionNumber=1)
    change(second, AcquisitionNumber=value, SOPInstanceUID=lambda i: f"1.2.3.{i + 1}")
    scan(order, lambda: networks, lambda event: None)
    assert list(order.out.glob("*/*/outcome.json"))


# What lies in the output tree


HOSTILE_FILES = [
    5, ["a"], {"../../etc/passwd": ""}, {"/etc/passwd": ""}, {"..": ""}, {".": ""}, {"": ""}, {"a\0b": ""},
    {"a\\b": ""}, {"\ud800": ""}, {"x" * 300: ""}, {"a": 5}, {"a\nb": ""},
]  # fmt: skip


@pytest.mark.parametrize("files", HOSTILE_FILES, ids=repr)
def test_outcome_that_lists_hostile_files_is_none(files, tmp_path):
    """One such outcome must neither end the night nor make `verify` open what lies elsewhere."""
    folder = tmp_path / "1.2" / "1.3"
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps({"status": "done", "work_key": "k", "files": files}))
    assert read_outcome(folder) is None
    [verdict] = verify(tmp_path)
    assert [defect.slug for defect in verdict.defects] == ["no-outcome"]
    [entry] = read_tree(tmp_path)
    assert entry.status == "failed"
    assert "passwd" not in as_html([entry], datetime.now())


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"status": 5, "work_key": "k"}', "null", '{"files": {}}', "\ufeff{}", "NaN", ""]
)
def test_outcome_that_is_none_of_ours(text, tmp_path):
    (tmp_path / "outcome.json").write_text(text)
    assert read_outcome(tmp_path) is None


def test_fifo_among_the_results_does_not_hang_verify(tmp_path):
    folder = tmp_path / "1.2" / "1.3"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "report.json")
    os.mkfifo(folder / "segmentation.seg.dcm")
    outcome = {"status": "rejected", "work_key": "k", "files": {"report.json": "", "segmentation.seg.dcm": ""}}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    found: list = []
    looking = threading.Thread(target=lambda: found.extend(verify(tmp_path)), daemon=True)
    looking.start()
    looking.join(10)
    assert not looking.is_alive()
    assert {defect.slug for defect in found[0].defects} >= {"altered-file"}


HOSTILE_TEXTS = [
    "</script><script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</title></style><script>", "<!--", "]]>",
    "\u202etxt.exe", "\u2066x", "javascript:alert(1)", "a\0b\x1b[2J", "&lt;script&gt;", "{{7*7}}", "x" * 100_000,
    "=HYPERLINK(\"x\")", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("status", ["done", "failed", "rejected"])
@pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=range(len(HOSTILE_TEXTS)))
def test_hostile_text_in_every_place_of_a_result_stays_text(text, status, tmp_path):
    folder = tmp_path / "1.2" / "1.3"
    folder.mkdir(parents=True)
    keys = ("slug", "message", "study_instance_uid", "series_instance_uid", "source", "covct_version", "finished")
    outcome = {"status": status, "work_key": text, "files": {text: text}, **dict.fromkeys(keys, text)}
    region = {name: text for name in ("volume_ml", "infection_ml", "infection_percent")}
    report = {
        "regions": dict.fromkeys(("lungs", "right_lung", "left_lung"), region),
        "severity": {"class": 3, "label": text},
        "valid_for": {"volume": text, text: text},
        "warnings": [{"slug": text, "message": text}],
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))
    (folder / "report.json").write_text(json.dumps(report))
    write_summary(tmp_path)
    page = (tmp_path / "index.html").read_text()
    found = Elements(page)
    assert not found.names & {"img", "iframe", "object", "embed", "form", "base", "svg:script"}
    assert not [a for a in found.attributes if a[1].startswith("on") or a[1] == "style"]
    links = {value for _, name, value in found.attributes if name in ("href", "src")}
    assert links <= {"#done", "#failed", "#rejected", "summary.csv", "1.2/1.3/report.json"}
    assert found.text.replace("\n", "").isprintable()
    assert page.count("<script") == 1, "its own"
    assert len(page) < 64_000
    assert "default-src 'none'" in page and "unsafe" not in page


def test_page_of_folders_with_hostile_names(tmp_path):
    for study, series in (('"><script>', "javascript:1"), ("a b?c#d%2e", "\u202ex"), ("\udcff", "1\n2")):
        folder = tmp_path / study / series
        folder.mkdir(parents=True)
        (folder / "outcome.json").write_text('{"status": "rejected", "slug": "no-lungs"}')
    write_summary(tmp_path)
    found = Elements((tmp_path / "index.html").read_text())
    assert (tmp_path / "index.html").read_text().count("<script") == 1, "its own"
    assert found.text.replace("\n", "").isprintable()


# What lies in the weights folder


def keras_file(path: Path, fill, method=zipfile.ZIP_STORED) -> str:
    """A .keras file whose HDF5 part `fill` writes. Returns its sha256."""
    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    packed(path, ("model.weights.h5", buffer.getvalue()), method=method)
    return file_sha256(path)


def linked_to_itself(file):
    file["layers"] = file["/"]


def nested(group, depth):
    if depth:
        nested(group.create_group("a"), depth - 1)


def graph(file):
    """Seven levels of thirty groups, each with all of the next level: 20,000,000,000 ways, in 100 KB."""
    groups = [file.create_group("a")]
    for level in range(6):
        deeper = [groups[0].create_group(f"{level} {number}") for number in range(30)]
        for group in groups[1:]:
            for number, one in enumerate(deeper):
                group[f"{number}"] = one
        groups = deeper


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (4,))
    file.create_virtual_dataset("a", layout)


def twice(file):
    file["a"] = np.zeros(1000, np.float32)
    for number in range(50):
        file[f"b{number}"] = file["a"]


HOSTILE_ARRAYS = {
    "soft link": (lambda file: file.__setitem__("a", h5py.SoftLink("/b")), "SoftLink"),
    "external link": (lambda file: file.__setitem__("a", h5py.ExternalLink("/etc/passwd", "/")), "ExternalLink"),
    "group in itself": (linked_to_itself, "appears twice"),
    "groups in groups": (lambda file: nested(file, 9), "nested deeper"),
    "graph of groups": (graph, "appears twice"),
    "groups by the thousand": (lambda file: [file.create_group(f"a{n}") for n in range(10_001)], "more than 10000"),
    "virtual": (virtual, "another file"),
    "external": (
        lambda file: file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)]), "another file",
    ),
    "10 TB declared": (lambda file: file.create_dataset("a", (10**13 // 4,), "f4", chunks=(1024,)), "declares"),
    "gzip": (lambda file: file.create_dataset("a", (10**6,), "f4", compression="gzip", fillvalue=1), "filtered"),
    "text": (lambda file: file.create_dataset("a", data=[b"x"]), "not an array of floats"),
    "objects": (lambda file: file.create_dataset("a", (1,), h5py.string_dtype()), "not an array of floats"),
    "reference": (lambda file: file.create_dataset("a", (1,), h5py.ref_dtype), "not an array of floats"),
    "a type": (lambda file: file.__setitem__("a", np.dtype("f4")), "not an array of floats"),
    "not finite": (lambda file: file.create_dataset("a", data=[np.nan]), "not finite"),
    "one array fifty times": (twice, "appears twice"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("attack", HOSTILE_ARRAYS)
def test_weights_file_that_leads_elsewhere_or_lies(attack, tmp_path, memory_limit):
    fill, why = HOSTILE_ARRAYS[attack]
    sha256 = keras_file(tmp_path / "a.keras", fill)
    with pytest.raises(ValueError, match=why):
        read_arrays(tmp_path / "a.keras", sha256)


def test_weights_file_that_is_no_plain_archive(tmp_path):
    sha256 = keras_file(tmp_path / "bomb.keras", lambda file: None, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="stored as keras does"):
        read_arrays(tmp_path / "bomb.keras", sha256)
    (tmp_path / "pickle.keras").write_bytes(b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="not a .keras file"):
        read_arrays(tmp_path / "pickle.keras", file_sha256(tmp_path / "pickle.keras"))


def test_weights_exchanged_after_the_card_was_checked(tmp_path):
    sha256 = keras_file(tmp_path / "a.keras", lambda file: file.create_dataset("a", data=[1.0]))
    keras_file(tmp_path / "a.keras", lambda file: file.create_dataset("a", data=[2.0]))
    with pytest.raises(ValueError, match="no longer the card's"):
        read_arrays(tmp_path / "a.keras", sha256)


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "../a.keras"}, {"weights": "/etc/passwd"}, {"weights": ".."}, {"weights": ""}, {"weights": 5},
        {"weights": "a\0b"}, {"weights": "a\\b"}, {"name": "../x"}, {"name": ["x"]}, {"task": "shell"},
        {"threshold": "0.5"}, {"threshold": 0}, {"threshold": float("nan")}, {"threshold": True}, {"threshold": 1e308},
        {"size": 0}, {"size": 10**9}, {"size": 256.5}, {"size": None}, {"flip": "no"}, {"sha256": "x"},
        {"sha256": None}, {"field_of_view": "house"}, {"architecture": "unet"}, {"recipe": {"name": "hu-window"}},
        {"architecture": {"name": "unet", "arguments": {"size": "__import__('os')"}}},
        {"architecture": {"name": "unet", "arguments": {"size": [1] * 9}}},
        {"architecture": {"name": "unet", "arguments": {"base_filters": 10**12}}},
        {"recipe": {"name": "hu-window", "arguments": {"low": float("-inf")}}}, {"training": 5}, {"limits": {}},
        {"licence": None}, {"format": 2}, {"command": "rm"},
    ],
    ids=repr,
)  # fmt: skip
def test_card_with_a_value_that_no_card_has(changes, weights):
    card = weights / "lungs.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **changes}))
    with pytest.raises(WeightsError):
        read_card(card)


@pytest.mark.parametrize("text", ["", "null", "5", "[]", "[" * 100_000, "{}", " " * 2_000_000, '{"format": 1}', "\x80"])
def test_card_that_is_none(text, weights):
    (weights / "lungs.json").write_text(text)
    with pytest.raises(WeightsError):
        read_card(weights / "lungs.json")


def test_weights_that_are_a_fifo_do_not_hang(weights):
    (weights / "lungs.keras").unlink()
    os.mkfifo(weights / "lungs.keras")
    with pytest.raises(WeightsError, match="not a file"):
        read_card(weights / "lungs.json")


# What leaves the house

# Whom and what an archive files an object by, who made the source, and that it was de-identified.
INHERITED = {
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientAge", "StudyDate", "StudyTime",
    "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "DeidentificationMethod",
    "PositionReferenceIndicator", "Manufacturer", "SoftwareVersions",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber",
    "ManufacturerModelName",
}  # fmt: skip
PERSONAL = {"LO", "SH", "PN", "ST", "LT", "UT", "UC"}
DATES = {"PatientBirthDate": "19511213", "StudyDate": "20191124", "SeriesDate": "20191125", "ContentDate": "20191127"}


def plant(folder: Path) -> dict[str, str]:
    """Fill every text that a header may hold with a value of its own. Returns the keywords by value."""
    planted = {f"Zq{n:05d}q": keyword for n, keyword in enumerate(sorted(_texts()))}
    planted |= {value: keyword for keyword, value in DATES.items()} | {"ZqPRIVATE": "private"}
    for path in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        for value, keyword in planted.items():
            if keyword != "private":
                setattr(dataset, keyword, value)
        dataset.add_new(0x00091010, "LO", "ZqPRIVATE")
        dataset.save_as(path)
    return planted


def _texts() -> Iterator[str]:
    read = {"ConvolutionKernel", "BodyPartExamined", "RescaleType", "SeriesDescription", "StackID", "ImageComments"}
    for tag, (vr, multiplicity, _, _, keyword) in DicomDictionary.items():
        if vr in PERSONAL and multiplicity[0] == "1" and tag >> 16 not in (0, 2, 4) and keyword and keyword not in read:
            yield keyword


@pytest.mark.slow
def test_only_what_dicom_needs_is_copied_into_results(order, series_folder, networks, capfd):
    """A text in every attribute of the source that holds texts: the library copies modules, we what is needed."""
    planted = plant(series_folder)
    order = replace(order, outputs=Outputs(("seg", "sr", "sc", "ko", "pdf", "png", "nifti")))
    told: list[dict] = []
    scan(order, lambda: networks, told.append)
    assert [event["event"] for event in told if event["event"] != "alive"][-2:] == ["done", "finished"]
    every: set[str] = set()
    for path in (path for path in order.out.rglob("*") if path.is_file()):
        contents = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found = {keyword for value, keyword in planted.items() if value.encode() in contents + os.fsencode(path)}
        trial = {keyword for keyword in found if "ClinicalTrial" in keyword}
        assert found - trial <= (INHERITED if path.suffix == ".dcm" else set()), path.name
        every |= found
    assert {"PatientName", "PatientID", "StudyDate"} <= every, "the test sees what is there"
    shown = json.dumps(told) + "".join(capfd.readouterr())
    assert [keyword for value, keyword in planted.items() if value in shown] == []


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_of_results_are_the_umasks(mask, order, networks):
    """A temporary file has 0600 and keeps it when it is renamed: results that only covct can read help nobody."""
    before = os.umask(mask)
    try:
        scan(order, lambda: networks, lambda event: None)
    finally:
        os.umask(before)
    for path in (order.out, *order.out.rglob("*")):
        secret = path.parent.name == ".covct" and path.name.startswith(("identifier-key", "index.sqlite"))
        wanted = 0o600 if secret else (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    for emptied in ("staging", "old", "attempts"):
        assert not [path for path in (order.out / ".covct" / emptied).rglob("*") if path.is_file()]


@pytest.mark.slow
def test_temporary_files_lie_in_the_output_only(order, networks, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP", "HOME"):
        monkeypatch.setenv(name, str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(elsewhere)
    scan(order, lambda: networks, lambda event: None)
    assert list(elsewhere.rglob("*")) == []


# Programs and networks

FORBIDDEN = {
    "pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "torch", "cloudpickle", "requests", "urllib3",
    "http", "ftplib", "smtplib", "telnetlib", "xmlrpc", "aiohttp", "httpx", "asyncio", "multiprocessing",
}  # fmt: skip
# What a room is there for: the viewer serves, on loopback; DICOMweb is HTTP; Dask's workers and their coordinator show
# one another keys before either reads a word.
GIVEN = {"viewer": {"http"}, "exchange": {"http", "requests", "urllib3"}, "workers": {"asyncio", "pickle"}}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "load_model", "unsafe_load", "from_config"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_runs_what_it_reads_and_nothing_calls_home(path):
    forbidden = FORBIDDEN - GIVEN.get(path.parent.name, set())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {name.split(".")[0] for name in names} & forbidden
            assert "urllib.request" not in names
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = getattr(getattr(node.func, "value", None), "id", "")
            assert called not in CALLS or (owner, called) in {("re", "compile"), ("network", "compile")}
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            assert not keywords.get("allow_pickle") and not keywords.get("shell"), ast.unparse(node)
            is_safe = owner == "np" and keywords.get("allow_pickle") is False
            assert not (called == "load" and owner in ("np", "numpy", "yaml")) or is_safe


@pytest.mark.slow
def test_a_whole_scan_opens_no_socket(order, networks, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    told: list[dict] = []
    scan(order, lambda: networks, told.append)
    assert [event["event"] for event in told if event["event"] != "alive"][-2:] == ["done", "finished"]


NO_SOCKET = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("a socket was asked for")
socket.socket.__init__ = refuse
for name in ("create_connection", "getaddrinfo", "gethostbyname"):
    setattr(socket, name, refuse)
from covct.cli import main
sys.argv[0] = "covct"
main()
"""


@pytest.mark.slow
def test_the_shipped_networks_need_neither_sockets_nor_a_home(phantom_series, tmp_path):
    """keras included, in a process of its own. Where the kernel lets us, it has no network to begin with."""
    command = [sys.executable, "-c", NO_SOCKET, "scan", str(phantom_series), "--out", str(tmp_path / "out")]
    alone = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        command = [*alone, *command]
    environment = {
        **os.environ,
        "HOME": "/dev/null/home",
        "PYTHONPATH": str(PACKAGE.parent),
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment.pop("COVCT_WEIGHTS", None)
    run = subprocess.run(
        [*command, "--device", "cpu", "--formats", "seg"],
        capture_output=True, text=True, env=environment, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
