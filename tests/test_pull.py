"""Pulling from an archive: exactly what is wanted and not there yet, as it was sent, whole or not at all."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pydicom
import pytest
import requests
from pydicom.uid import CTImageStorage, RLELossless

from covct.commands.pull import _days
from covct.errors import OutputLocked, OutputNotWritable, PeerError, UsageError
from covct.exchange.acceptor import Terms
from covct.exchange.archive import FoundSeries, FoundStudy
from covct.exchange.arrivals import STAGING, Arrivals, arriving
from covct.exchange.listener import listening
from covct.exchange.peers import Caller
from covct.exchange.pull_event import PullEvent
from covct.exchange.received import SIGN, Inbox
from covct.exchange.tls import server_context
from covct.exchange.wanted import Days, Wanted
from covct.exchange.web_archive import NoAnswer, WebArchive, web_archive
from covct.intake.discover import discover
from support.archive import GET, ct_series, tiny_archive
from support.certificates import make_authority
from support.checkout import PYTHONPATH
from support.events import as_published
from support.pacs import data_set, free_ports
from support.running import invoke

pytest.importorskip("pynetdicom")

NIGHT = ("--date", "2026-11-29", "--pause", "0", "--json")


@pytest.fixture
def studies(tmp_path):
    """Four studies: two of the night's chests, one compressed; a head; and a chest of the day before."""
    folder = tmp_path / "sent"
    return {
        "1.2.1": ct_series(folder, "1.2.1"),
        "1.2.2": ct_series(folder, "1.2.2", syntax=RLELossless, BodyPartExamined=""),
        "1.2.3": ct_series(folder, "1.2.3", BodyPartExamined="HEAD"),
        "1.2.4": ct_series(folder, "1.2.4", StudyDate="20261128"),
        "1.2.1 scout": ct_series(folder, "1.2.1", number=2, slices=1),
    }


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def every(studies):
    return [path for paths in studies.values() for path in paths]


def pulled(inbox, *arguments):
    """Events of a pull, which have the published form; and its exit code."""
    result = invoke("pull", inbox, *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return as_published(PullEvent, [json.loads(line) for line in result.stdout.splitlines()]), result.exit_code


def arrived(inbox):
    return {path.relative_to(inbox).as_posix() for path in inbox.rglob("*.dcm") if STAGING not in path.parts}


def expected(*series):
    return {f"{uid.rpartition('.')[0]}/{uid}.{number}.dcm" for uid in series for number in range(1, 5)}


def assert_as_sent(inbox, studies):
    """Byte for byte below the file meta information, which whoever writes a file words anew."""
    sent = {path.name: path for path in every(studies)}
    for path in inbox.rglob("*.dcm"):
        [theirs, ours] = sent[path.stem].read_bytes(), path.read_bytes()
        assert data_set(ours) == data_set(theirs), path.name
        syntaxes = [pydicom.dcmread(one).file_meta.TransferSyntaxUID for one in (path, sent[path.stem])]
        assert syntaxes[0] == syntaxes[1]


# The archive of a hospital


@pytest.mark.slow
@pytest.mark.parametrize("by", ["C-GET", "C-MOVE", "DICOMweb"])
def test_orthanc_gives_the_chests_of_one_day_and_nothing_twice(by, pacs, studies, inbox):
    pacs.c_store(every(studies))
    [port] = free_ports(1)
    source = f"http://127.0.0.1:{pacs.http_port}/dicom-web" if by == "DICOMweb" else pacs.peer
    options = ()
    if by == "C-MOVE":
        options = ("--move-to", f"COVCTPULL@127.0.0.1:{port}")
        pacs.ask("PUT", "/modalities/pull", json.dumps(["COVCTPULL", "127.0.0.1", port]).encode())
    events, code = pulled(inbox, "--from", source, *options, *NIGHT)
    assert code == 0
    assert arrived(inbox) == expected("1.2.1.1", "1.2.2.1")
    assert_as_sent(inbox, studies)
    assert events[-1] == {"event": "finished", "pulled": 2, "left out": 1}
    events, code = pulled(inbox, "--from", source, *options, *NIGHT)
    assert (events, code) == ([{"event": "finished", "here": 2, "left out": 1}], 0)


# Which studies


def test_a_dry_run_shows_each_series_without_names_and_writes_nothing(studies, inbox):
    with tiny_archive(every(studies)) as archive:
        events, code = pulled(inbox, "--from", archive.peer, *NIGHT, "--dry-run")
        shown = invoke("pull", inbox, "--from", archive.peer, *NIGHT[:-1], "--dry-run").stdout
    assert code == 0 and not archive.sent and not list(inbox.iterdir())
    assert {event["series"]: (event["verdict"], event["why"]) for event in events} == {
        "1.2.1.1": ("pull", ""),
        "1.2.1.2": ("leave out", "1 slices, wanted 3 or more"),
        "1.2.2.1": ("pull", ""),
        "1.2.3.1": ("leave out", "of another part of the body"),
    }
    assert not re.search("Secret|Thorax|P1.2|2026", shown + json.dumps(events))


def test_description_patterns_and_what_an_archive_does_not_tell(studies, inbox):
    with tiny_archive(studies["1.2.1"]) as archive:
        for select, why in [
            ("StudyDescription=thorax", ""),
            ("StudyDescription=^head", "StudyDescription does not match"),
            ("ConvolutionKernel=B70", "the archive does not tell ConvolutionKernel"),
        ]:
            [event], _ = pulled(inbox, "--from", archive.peer, *NIGHT, "--dry-run", "--select", select)
            assert event["why"] == why


@pytest.mark.parametrize(
    ("date", "time", "holds"),
    [
        ("20261129", "220000", True),
        ("20261129", "2200", True),
        ("20261130", "055959.123", True),
        ("20261130", "060000", False),
        ("20261129", "215959", False),
        ("20261129", "", True),
        ("20261128", "", False),
        ("20261130", "", True),
        ("", "", False),
    ],
)
def test_a_night_goes_from_evening_to_morning(date, time, holds):
    night = Days(datetime(2026, 11, 29, 22), datetime(2026, 11, 30, 6))
    assert night.dates == "20261129-20261130"
    assert night.hold(FoundStudy("1.2", {"StudyDate": date, "StudyTime": time})) is holds


def test_the_last_day_ends_at_midnight():
    days = _days("2026-11-29", None, None, datetime.now().astimezone())
    assert days.hold(FoundStudy("1.2", {"StudyDate": "20261129", "StudyTime": "235959"}))
    assert not days.hold(FoundStudy("1.2", {"StudyDate": "20261130", "StudyTime": "000000"}))
    assert not days.hold(FoundStudy("1.2", {"StudyDate": "20261130", "StudyTime": ""}))


def test_days_without_a_word_are_the_last_24_hours_and_a_wrong_one_is_told():
    now = datetime(2026, 11, 30, 6).astimezone()
    assert _days(None, None, None, now) == Days(datetime(2026, 11, 29, 6).astimezone(), None)
    assert _days("yesterday", None, None, now).dates == "20261129-20261129"
    with pytest.raises(UsageError, match="--date last week: wanted a day such as"):
        _days("last week", None, None, now)
    with pytest.raises(UsageError, match="--until noon: wanted a date or time"):
        _days(None, None, "noon", now)


def test_a_series_whose_slices_nobody_counts_is_wanted():
    assert Wanted().why_not(FoundSeries("1.2", "1.2.1", {"Modality": "CT"})) == ""


# Not twice


def test_what_the_ledger_knows_is_not_pulled(studies, inbox, tmp_path):
    result = tmp_path / "out" / "1.2.1" / "1.2.1.1"
    result.mkdir(parents=True)
    outcome = {"status": "rejected", "work_key": "0" * 64, "slug": "no-lungs", "message": "none"}
    (result / "outcome.json").write_text(
        json.dumps({**outcome, "study_instance_uid": "1.2.1", "series_instance_uid": "1.2.1.1"})
    )
    with tiny_archive(every(studies)) as archive:
        events, _ = pulled(inbox, "--from", archive.peer, *NIGHT, "--out", tmp_path / "out")
    assert arrived(inbox) == expected("1.2.2.1")
    assert events[-1] == {"event": "finished", "here": 1, "pulled": 1, "left out": 1}


def test_the_audit_log_says_who_was_asked_and_what_came_without_names(studies, inbox, tmp_path):
    with tiny_archive(every(studies), refuses={"1.2.1.1.3"}) as archive:
        pulled(inbox, "--from", archive.peer, *NIGHT, "--out", tmp_path / "out")
    text = (tmp_path / "out/.covct/audit.jsonl").read_text()
    asked, one, two = [json.loads(line) for line in text.splitlines()]
    assert (asked["activity"], asked["destination"]["name"]) == ("queried", "TINY")
    assert [(each["outcome"], each["studies"][0]["sop_classes"]) for each in (one, two)] == [
        (4, [{"uid": CTImageStorage, "instances": 3}]),
        (0, [{"uid": CTImageStorage, "instances": 4}]),
    ]
    assert one["reason"] == "1 of 4 instances did not come: some could not be sent"
    assert not re.search("Secret|Thorax|P1.2|20261129", text)


@pytest.mark.parametrize("place", ["any name {}", "1.2.1/1.2.1.1.{}.dcm", "1.2.1/1.2.1.1/1.2.1.1.{}.dcm"])
def test_what_lies_in_the_inbox_by_any_name_is_not_pulled(place, studies, inbox):
    for index, path in enumerate(studies["1.2.1"], start=1):
        (inbox / place.format(index)).parent.mkdir(parents=True, exist_ok=True)
        (inbox / place.format(index)).write_bytes(path.read_bytes())
    with tiny_archive(studies["1.2.1"]) as archive:
        events, _ = pulled(inbox, "--from", archive.peer, *NIGHT)
    assert events == [{"event": "finished", "here": 1}] and not archive.sent


def test_a_pulled_study_that_was_moved_away_is_not_pulled_again_unless_it_has_grown(studies, inbox, tmp_path):
    first, late = studies["1.2.1"][:3], studies["1.2.1"]
    with tiny_archive(first) as archive:
        pulled(inbox, "--from", archive.peer, *NIGHT)
    (inbox / "1.2.1").rename(tmp_path / "done")
    with tiny_archive(first) as archive:
        assert pulled(inbox, "--from", archive.peer, *NIGHT) == ([{"event": "finished", "here": 1}], 0)
        [plan], _ = pulled(inbox, "--from", archive.peer, *NIGHT, "--dry-run", "--out", tmp_path / "out")
        assert plan["verdict"] == "pull", "where there is a ledger, it alone knows what was done"
    with tiny_archive(late) as archive:
        pulled(inbox, "--from", archive.peer, *NIGHT)
    assert arrived(inbox) == expected("1.2.1.1")


def test_slices_that_came_late_to_the_archive_join_those_in_the_inbox(studies, inbox):
    with tiny_archive(studies["1.2.1"][:3]) as archive:
        pulled(inbox, "--from", archive.peer, *NIGHT)
    with tiny_archive(studies["1.2.1"]) as archive:
        pulled(inbox, "--from", archive.peer, *NIGHT, "--marker", "whole")
    assert archive.sent == ["1.2.1.1.4"]
    assert arrived(inbox) == expected("1.2.1.1")
    assert (inbox / "1.2.1" / "whole").exists()


# Whole or not at all


def test_what_an_archive_cannot_send_keeps_the_study_out_until_it_can(studies, inbox):
    with tiny_archive(every(studies), refuses={"1.2.1.1.3"}) as archive:
        events, code = pulled(inbox, "--from", archive.peer, *NIGHT, "--marker", "whole")
        assert code == 3
        [told] = [event for event in events if event["event"] == "incomplete"]
        assert told == {
            "event": "incomplete", "study": "1.2.1", "missing": 1,
            "message": "1 of 4 instances did not come: some could not be sent",
        }  # fmt: skip
        assert arrived(inbox) == expected("1.2.2.1")
        assert (inbox / "1.2.2" / "whole").exists()
        archive.refuses.clear()
        archive.sent.clear()
        events, code = pulled(inbox, "--from", archive.peer, "--date", "2020-01-01", "--json", "--marker", "whole")
    assert code == 0 and archive.sent == ["1.2.1.1.3"]
    assert arrived(inbox) == expected("1.2.1.1", "1.2.2.1")
    assert (inbox / "1.2.1" / "whole").exists()
    assert_as_sent(inbox, studies)


def test_an_association_that_breaks_is_told_and_the_next_pull_goes_on(studies, inbox):
    with tiny_archive(studies["1.2.1"], stop_after=2) as archive:
        with pytest.raises(PeerError, match="the association was lost during a retrieval; the next pull goes on"):
            raise invoke("pull", inbox, "--from", archive.peer, *NIGHT).exception
        assert not arrived(inbox)
        archive.stop_after = None
        before = len(archive.sent)
        pulled(inbox, "--from", archive.peer, *NIGHT)
    assert len(archive.sent) - before == 4 - before
    assert arrived(inbox) == expected("1.2.1.1")


@pytest.mark.slow
def test_a_pull_that_is_killed_goes_on_where_it_was(studies, inbox):
    files = ct_series(inbox.parent / "many", "1.2.8", slices=60)
    with tiny_archive(files) as archive:
        process = subprocess.Popen(
            [sys.executable, "-m", "covct", "pull", inbox, "--from", archive.peer, *NIGHT],
            env={**os.environ, "PYTHONPATH": PYTHONPATH}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(archive.sent) < 10 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = len(list((inbox / STAGING).rglob("*.dcm")))
        assert 0 < there < 60 and not arrived(inbox)
        assert not discover([inbox]).series, "nobody meets half a study"
    with tiny_archive(files) as archive:
        events, code = pulled(inbox, "--from", archive.peer, *NIGHT)
    assert code == 0 and len(archive.sent) == 60 - there
    assert len(arrived(inbox)) == 60
    assert not list(inbox.rglob("*.tmp"))


def test_two_pulls_do_not_write_into_one_inbox(studies, inbox):
    locked = pytest.raises(OutputLocked, match="another covct pull is writing there")
    with tiny_archive(studies["1.2.1"]) as archive, arriving(inbox), locked:
        raise invoke("pull", inbox, "--from", archive.peer, *NIGHT).exception


def test_a_full_disk_ends_the_pull(studies, inbox, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with tiny_archive(studies["1.2.1"]) as archive:
        monkeypatch.setattr("covct.exchange.arrivals.replace_file", full)
        with pytest.raises(OutputNotWritable, match="No space left on device"):
            raise invoke("pull", inbox, "--from", archive.peer, *NIGHT).exception
    assert not arrived(inbox)


# Politely


def test_studies_are_limited_and_spaced(studies, inbox, monkeypatch):
    waited = []
    monkeypatch.setattr("covct.exchange.pull.pull.__defaults__", (waited.append,))
    with tiny_archive(every(studies)) as archive:
        events, _ = pulled(inbox, "--from", archive.peer, *NIGHT[:2], "--json", "--limit", "1", "--pause", "7")
        assert events[-1] == {"event": "finished", "pulled": 1, "not looked at": 2}
        assert waited == []
        pulled(inbox, "--from", archive.peer, "--date", "2026-11-28", "--json")
        events, _ = pulled(inbox, "--from", archive.peer, "--since", "2026-11-28", "--json", "--pause", "7")
    assert len(arrived(inbox)) == 12


# What goes wrong, in a sentence


@pytest.mark.parametrize(
    ("settings", "options", "sentence"),
    [
        ({"calling": "SOMEBODY"}, (), "it does not know our AE title COVCT; wanted it entered there"),
        ({"calling": "SOMEBODY"}, ("--ae-title", "OTHER"), "it does not know our AE title OTHER"),
        ({"refuses": {GET}}, (), r"it does not offer C-GET \(Study Root\); wanted --move-to"),
        ({"refuses": {CTImageStorage}}, (), r"it does not send CT images by C-GET \(role selection refused\)"),
        ({"status": 0xA700}, (), r"it did not answer a query of study: out of resources \(status 0xA700\)"),
    ],
)
def test_refusals_are_told_in_a_sentence(settings, options, sentence, studies, inbox):
    with tiny_archive(studies["1.2.1"], **settings) as archive, pytest.raises(PeerError, match=sentence):
        raise invoke("pull", inbox, "--from", archive.peer, *NIGHT, *options).exception


def test_a_wrong_title_of_theirs_an_unknown_host_and_a_closed_port(studies, inbox, monkeypatch):
    misnamed = pytest.raises(PeerError, match="it is not called NOBODY; wanted its own AE title")
    with tiny_archive(studies["1.2.1"]) as archive, misnamed:
        raise invoke("pull", inbox, "--from", f"NOBODY@127.0.0.1:{archive.port}", *NIGHT).exception
    monkeypatch.setattr("covct.exchange.web_archive.WAIT_S", 0)
    [port] = free_ports(1)
    with pytest.raises(PeerError, match="nobody answers there: Connection refused"):
        raise invoke("pull", inbox, "--from", f"PACS@127.0.0.1:{port}", *NIGHT).exception
    with pytest.raises(PeerError, match="nobody answers there"):
        raise invoke("pull", inbox, "--from", f"http://127.0.0.1:{port}/dicom-web", *NIGHT).exception

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(PeerError, match=r"the host name pacs\.example does not resolve: Name or service not known"):
        raise invoke("pull", inbox, "--from", "PACS@pacs.example:104", *NIGHT).exception
    with pytest.raises(PeerError, match="the host name does not resolve"):
        raise invoke("pull", inbox, "--from", "http://pacs.example/dicom-web", *NIGHT).exception


def test_a_listener_that_the_archive_does_not_know(studies, inbox):
    with tiny_archive(studies["1.2.1"]) as archive:
        events, code = pulled(inbox, "--from", archive.peer, *NIGHT, "--move-to", "ELSEWHERE")
    assert code == 3
    [told] = [event for event in events if event["event"] == "incomplete"]
    assert told["message"].endswith("it does not know the AE title that the images are to go to (status 0xA801)")


def test_c_move_to_a_listener_of_its_own(studies, inbox):
    [port] = free_ports(1)
    with tiny_archive(studies["1.2.1"], listeners={"COVCT": ("127.0.0.1", port)}) as archive:
        _, code = pulled(inbox, "--from", archive.peer, *NIGHT, "--move-to", f"COVCT@127.0.0.1:{port}")
    assert code == 0
    assert arrived(inbox) == expected("1.2.1.1")
    assert_as_sent(inbox, studies)


def test_c_move_to_a_listener_that_runs_anyway(studies, inbox):
    terms = Terms("LISTENER", (Caller("*", None),), 1 << 17, 10)
    with listening("127.0.0.1", 0, terms, Inbox(inbox), None, 4, lambda event: None) as listener:
        thread = threading.Thread(target=listener.serve)
        thread.start()
        try:
            with tiny_archive(studies["1.2.1"], listeners={"LISTENER": listener.address}) as archive:
                for told in ("pulled", "here"):
                    events, code = pulled(inbox, "--from", archive.peer, *NIGHT, "--move-to", "LISTENER")
                    assert (code, events[-1]) == (0, {"event": "finished", told: 1})
        finally:
            listener.stop()
            thread.join()
    assert arrived(inbox) == expected("1.2.1.1")


def test_by_tls_the_archive_shows_who_it_is(studies, inbox, tmp_path):
    ours, strangers = (make_authority(tmp_path / name) for name in ("ours", "strangers"))
    tls = server_context(*ours.signs("archive"), authorities=ours.certificate)
    known = ("--tls-authorities", ours.certificate)
    certificate, key = ours.signs("covct")
    shown = ("--tls-certificate", certificate, "--tls-key", key)
    with tiny_archive(studies["1.2.1"], tls=tls) as archive:
        with pytest.raises(PeerError, match="the peer's certificate is refused"):
            raise invoke(
                "pull", inbox, "--from", archive.peer, *NIGHT, "--tls-authorities", strangers.certificate
            ).exception
        _, code = pulled(inbox, "--from", archive.peer, *NIGHT, *known, *shown)
    assert code == 0 and arrived(inbox) == expected("1.2.1.1")


def test_an_archive_by_its_name_in_the_configuration(studies, inbox, tmp_path):
    config = tmp_path / "covct.toml"
    with tiny_archive(studies["1.2.1"], calling="NIGHT") as archive:
        config.write_text(f'[destinations.pacs]\naddress = "{archive.peer}"\nours = "NIGHT"\n[pull]\nfrom = "pacs"\n')
        _, code = pulled(inbox, "--config", config, *NIGHT)
        assert code == 0 and arrived(inbox) == expected("1.2.1.1")
        with pytest.raises(PeerError, match="it does not know our AE title OTHER"):
            raise invoke("pull", inbox, "--config", config, *NIGHT, "--ae-title", "OTHER").exception


def test_names_of_an_archive_are_no_paths(inbox):
    """UIDs are what an archive says they are: one that is none becomes a hash."""
    series = FoundSeries("../../etc", "/tmp/x", {})
    with arriving(inbox) as arrivals:
        arrivals.keep(series.study_uid, "../1", b"x")
        arrivals.hand_over(series.study_uid, {series.uid: 1})
    [path] = [path for path in inbox.rglob("*.dcm")]
    assert re.fullmatch(r"uid-\w+/uid-\w+\.dcm", path.relative_to(inbox).as_posix())
    assert Path(inbox.parent, "1").exists() is False


def test_what_is_no_study_is_not_asked_for(inbox):
    """A listener of the pull keeps its notes beside the studies; a study whose UID is none has a hash for a name."""
    for name in (".whole", "uid-0123", "1.2.3"):
        (inbox / STAGING / name).mkdir(parents=True)
    assert Arrivals(inbox).studies() == ["1.2.3"]


def test_an_instance_that_comes_during_the_hand_over_is_kept_for_the_next_pull(inbox, monkeypatch):
    """The archive's association may outlive its last answer: the sign of the listener, and instances, still come."""
    replaced = os.replace
    (inbox / "1.2.3").mkdir()

    def replace(source, target):
        replaced(source, target)
        if Path(source).name == "1.2.3.1.dcm":
            for name in (SIGN, "1.2.3.2.dcm"):
                Path(source).with_name(name).touch()

    with arriving(inbox) as arrivals:
        arrivals.keep("1.2.3", "1.2.3.1", b"x")
        monkeypatch.setattr("covct.exchange.arrivals.os.replace", replace)
        arrivals.hand_over("1.2.3", {"1.2.3.9": 1})
        assert arrivals.held("1.2.3") == {"1.2.3.2"} and arrivals.studies() == ["1.2.3"]
        assert arrivals.record() == {"1.2.3.9": 1}
    assert [path.name for path in (inbox / "1.2.3").iterdir()] == ["1.2.3.1.dcm"]


# A DICOMweb service that is not as it should be


@dataclass
class WebService:
    """Answers one study, with whatever `files` says of an instance; `asked` are the paths of requests."""

    paths: list[Path]
    files: Callable[[int, bytes], tuple[int, str, bytes]]
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    most: int | None = None
    warning: str = ""

    def answer(self, path: str, offset: int = 0) -> tuple[int, str, bytes]:
        """Pages are unknown to it, unless it gives `most` at once: it says all of it each time."""
        self.asked.append(path)
        sent = [pydicom.dcmread(one) for one in self.paths]
        if path.endswith("/studies"):
            found = [{"0020000D": _ui(sent[0].StudyInstanceUID), "00080020": {"vr": "DA", "Value": ["20261129"]}}]
        elif path.endswith("/series"):
            found = [{"0020000E": _ui(sent[0].SeriesInstanceUID), "00080060": {"vr": "CS", "Value": ["CT"]}}]
        elif path.endswith("/instances"):
            found = [{"00080018": _ui(one.SOPInstanceUID)} for one in sent]
        else:
            [content] = [one.read_bytes() for one in self.paths if path.endswith(f"/{one.name}")]
            return self.files(len(self.asked), content)
        if self.most:
            found = found[offset : offset + self.most]
        return 200, "application/dicom+json", json.dumps(found).encode()


def _ui(uid):
    return {"vr": "UI", "Value": [str(uid)]}


@contextmanager
def web_service(paths, files):
    service = WebService(paths, files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            service.tokens.append(self.headers.get("Authorization"))
            path, _, query = self.path.partition("?")
            [offset] = parse_qs(query).get("offset", ["0"])
            status, kind, body = service.answer(path, int(offset)) if service.most else service.answer(path)
            self.send_response(status)
            if service.warning:
                self.send_header("Warning", service.warning)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True)
    thread.start()
    try:
        yield service, f"http://127.0.0.1:{server.server_port}/dicom-web/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def part(content, boundary="edge", end="--"):
    body = (
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + content
        + f"\r\n--{boundary}{end}".encode()
    )
    return f'multipart/related; type="application/dicom"; boundary="{boundary}"', body


def test_a_service_without_pages_with_a_token_and_with_bare_files(studies, inbox, tmp_path):
    token = tmp_path / "token"
    token.write_text("abc.def\n")
    with web_service(studies["1.2.1"], lambda _, content: (200, "application/dicom", content)) as (service, url):
        events, code = pulled(inbox, "--from", url, *NIGHT, "--auth-file", token)
    assert code == 0 and set(service.tokens) == {"Bearer abc.def"}
    assert arrived(inbox) == expected("1.2.1.1")
    assert_as_sent(inbox, studies)


@pytest.mark.parametrize(("warning", "came"), [("299 it: there are more", 4), ("", 2)])
def test_a_service_that_gives_fewer_at_once_is_asked_for_the_rest_where_it_says_so(warning, came, studies, inbox):
    with web_service(studies["1.2.1"], lambda _, content: (200, "application/dicom", content)) as (service, url):
        service.most, service.warning = 2, warning
        events, code = pulled(inbox, "--from", url, *NIGHT, "--series-min-slices", "2")
    assert code == 0 and len(list(inbox.rglob("*.dcm"))) == came


def test_a_service_that_goes_in_the_middle_of_a_series_is_not_waited_for_at_each_instance(studies, inbox, monkeypatch):
    with web_service(studies["1.2.1"], lambda *_: None) as (_, url):
        archive = web_archive(url, requests.Session())
        asked, kept = [], []

        def instance(_, place):
            asked.append(place)
            if len(asked) > 1:
                raise NoAnswer(f"{archive.url}: it did not answer in time")
            return b"x"

        monkeypatch.setattr(WebArchive, "_instance", instance)
        fetched = archive.fetch(FoundSeries("1.2", "1.3", {}), list("123456789"), True, lambda *one: kept.append(one))
    assert (len(asked), len(kept)) == (4, 1) and fetched.message == "it did not answer in time"


def test_a_study_whose_uid_is_none_ends_no_pull(tmp_path, inbox):
    files = ct_series(tmp_path / "sent", "1.2.x")
    with web_service(files, lambda _, content: (200, "application/dicom", content)) as (_, url):
        _, code = pulled(inbox, "--from", url, *NIGHT)
    assert code == 0 and len(list(inbox.glob("uid-*/*.dcm"))) == 4


def test_a_busy_service_is_asked_again_and_an_answer_cut_short_is_not_kept(studies, inbox, monkeypatch):
    waited = []
    monkeypatch.setattr("covct.exchange.web_archive.sleep", waited.append)

    def files(number, content):
        kind, body = part(content)
        if content.endswith(studies["1.2.1"][2].read_bytes()):
            return 200, kind, body[:-10]
        return (503, "text/plain", b"") if number in (4, 5) else (200, kind, body)

    with web_service(studies["1.2.1"], files) as (_, url):
        events, code = pulled(inbox, "--from", url, *NIGHT)
    assert code == 3 and waited == [1.0, 2.0]
    assert [one["message"] for one in events if one["event"] == "incomplete"] == [
        "1 of 4 instances did not come: the answer was cut short"
    ]
    assert not arrived(inbox) and len(list((inbox / STAGING).rglob("*.dcm"))) == 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((401, "text/plain", b""), r"it wants to know who asks, or does not let us \(HTTP 401\)"),
        ((404, "text/plain", b""), r"it has no such thing there \(HTTP 404\)"),
        ((200, "text/html", b"<html>"), "it sent text/html, wanted a DICOM file"),
        ((200, "application/dicom", b"x" * 200), "what it sent is no DICOM file"),
    ],
)
def test_files_that_a_service_does_not_hand_out(answer, sentence, studies, inbox):
    with web_service(studies["1.2.1"], lambda *_: answer) as (service, url):
        events, code = pulled(inbox, "--from", url, *NIGHT)
    [told] = [one["message"] for one in events if one["event"] == "incomplete"]
    assert code == 3 and re.search(sentence, told)
    assert sum("/instances/" in path for path in service.asked) == 3  # where nothing comes at all, not all is asked for


def test_a_url_that_is_no_service(studies, inbox, monkeypatch):
    with web_service(studies["1.2.1"], lambda *_: None) as (service, url):
        service.answer = lambda path: (200, "text/html", b"<html>")
        with pytest.raises(PeerError, match="it does not answer as DICOMweb does; wanted the URL before /studies"):
            raise invoke("pull", inbox, "--from", url, *NIGHT).exception
        service.answer = lambda path: (403, "text/html", b"")
        with pytest.raises(PeerError, match="does not let us"):
            raise invoke("pull", inbox, "--from", url, *NIGHT).exception


def test_options_that_do_not_go_together(inbox, tmp_path):
    (token := tmp_path / "token").write_text("abc")
    for options, sentence in [
        (("--from", "http://127.0.0.1/", "--move-to", "X"), "--move-to is for DICOM peers"),
        (("--from", "A@127.0.0.1:1", "--auth-file", "x"), "--auth-file is for DICOMweb URLs"),
        (("--from", "TITLE@host"), "--from TITLE@host: wanted TITLE@HOST:PORT"),
        (("--from", "nowhere"), "--from nowhere: wanted TITLE@HOST:PORT, https://HOST/PATH, or the NAME"),
        (("--from", "A@h:1", "--date", "today", "--since", "1d"), "--date: wanted without --since and --until"),
        (("--from", "A@h:1", "--body-part", "("), r"--body-part \(: "),
        (
            ("--from", "A@127.0.0.1:1", "--move-to", "X@192.0.2.1:104"),
            "--move-to X: cannot listen on 192.0.2.1, port 104",
        ),
        (("--from", "A@127.0.0.1:1", "--move-to", "dicoms://X@127.0.0.1:104"), "speaks no TLS"),
        (("--from", "A@h:1", "--marker", "a/b"), "wanted the name of a file, not a path"),
        (("--from", "A@h:1", "--marker", ".."), "wanted the name of a file, not a path"),
        (("--from", "http://127.0.0.1/", "--auth-file", tmp_path / "none"), "cannot be read: No such file"),
        (("--from", "http://pacs.example/", "--auth-file", token), "goes nowhere without TLS"),
        (("--from", "https://me:secret@pacs.example/"), "credentials stand in no address"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            raise invoke("pull", inbox, *options).exception
