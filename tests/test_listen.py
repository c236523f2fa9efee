"""`covct listen`: what a modality is told, what lies in the inbox then, and what others may do to it."""

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from covct.dicom.header import CT_IMAGE, ENHANCED_CT, LEGACY_CONVERTED_CT
from covct.dicom.syntaxes import EXPLICIT_LITTLE_ENDIAN, SYNTAXES
from covct.errors import UsageError
from covct.exchange import received
from covct.exchange.received import SIGN, Inbox
from covct.exchange.tls import client_context, server_context
from covct.unattended.batch import INDEX_NAME
from covct.unattended.inbox import Settling, survey
from covct.unattended.index import open_index
from support.certificates import make_authority
from support.dicom_peers import MAX_PDU, Raw, command, instance, request, running, send
from support.pacs import data_set, die_with_parent
from support.running import invoke

SUCCESS, INVALID_INSTANCE = 0x0000, 0x0117
OUT_OF_RESOURCES, DOES_NOT_MATCH, NOT_UNDERSTOOD = 0xA700, 0xA900, 0xC000
ABORT, REJECT = 7, 3


@pytest.fixture
def sent(tmp_path):
    folder = tmp_path / "sent"
    folder.mkdir()
    return folder


@pytest.fixture
def inbox(tmp_path):
    return tmp_path / "inbox"


def stored(inbox: Path) -> dict[str, bytes]:
    """By name, what lies in the inbox, hidden or not."""
    files = (path for path in inbox.rglob("*") if path.is_file())
    return {path.relative_to(inbox).as_posix(): path.read_bytes() for path in files}


def own_data(sent: Path, **attributes) -> bytes:
    return data_set(instance(sent, **attributes).read_bytes())


@pytest.mark.parametrize("sop_class", [CT_IMAGE, ENHANCED_CT, LEGACY_CONVERTED_CT])
def test_every_class_in_every_transfer_syntax_is_stored_as_it_was_sent(sop_class, sent, inbox):
    paths = [instance(sent, number, sop_class=sop_class, syntax=uid) for number, uid in enumerate(SYNTAXES)]
    with running(inbox) as node:
        assert send(node.port, paths) == [SUCCESS] * len(SYNTAXES)
        [event] = node.told()
    assert event["peer"] == "CT1" and event["stored"] == len(SYNTAXES) and event["ended"] == "released"
    assert {name: data_set(found) for name, found in stored(inbox).items()} == {
        f"1.2.3/1.2.3.4.{number}.dcm": data_set(path.read_bytes()) for number, path in enumerate(paths)
    }


def test_c_echo(inbox):
    with running(inbox) as node, Raw(node.port) as peer:
        echo = command("1.2.3", "1.2.840.10008.1.1", field=0x30)
        peer.value(echo.replace(b"\0\0\0\x08\x02\0\0\0\x01\0", b"\0\0\0\x08\x02\0\0\0\x01\x01"), 3, context=3)
        assert peer.status() == SUCCESS


def test_who_offers_several_syntaxes_gets_the_plainest():
    from covct.exchange.acceptor import TAKEN_SYNTAXES

    assert TAKEN_SYNTAXES[0] == EXPLICIT_LITTLE_ENDIAN and {*TAKEN_SYNTAXES} == {*SYNTAXES}
    losses = [("never", "maybe", "always").index(SYNTAXES[uid].loss) for uid in TAKEN_SYNTAXES]
    assert all(one <= other for one, other in pairwise(losses))


def test_success_is_answered_once_it_is_on_the_disk(sent, inbox, monkeypatch):
    """File, name, folder: a sender forgets what it was told is stored."""
    done, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(f"fsync {os.readlink(f'/proc/self/fd/{descriptor}')}")
        fsync(descriptor)

    def noted_replace(one, other):
        done.append(f"rename to {other}")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with running(inbox) as node, Raw(node.port) as peer:
        done.clear()
        assert peer.store("1.2.3.4.1", own_data(sent)) == SUCCESS
        first, *then = done
    assert first.startswith(f"fsync {inbox}/.") and first.endswith(".tmp")
    assert then == [f"fsync {inbox}", f"rename to {inbox}/1.2.3/1.2.3.4.1.dcm", f"fsync {inbox}/1.2.3"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_told_and_the_next_instance_is_taken(call, sent, inbox, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    data = own_data(sent)
    with running(inbox) as node, Raw(node.port) as peer:
        with monkeypatch.context() as patched:
            patched.setattr(received.os, call, full)
            assert peer.store("1.2.3.4.1", data) == OUT_OF_RESOURCES
        assert not {name for name in stored(inbox) if name.endswith((".dcm", ".tmp"))}
        assert peer.store("1.2.3.4.1", data) == SUCCESS


def test_a_disk_that_fills_in_the_middle_of_an_instance(sent, inbox, monkeypatch):
    class Full(received.Incoming):
        def _begin(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(received, "Incoming", Full)
    with running(inbox) as node, Raw(node.port) as peer:
        assert peer.store("1.2.3.4.1", own_data(sent) + bytes(4 * MAX_PDU)) == OUT_OF_RESOURCES
        assert not stored(inbox)


@pytest.mark.parametrize(
    ("attributes", "uid", "sop_class", "status"),
    [
        ({"SOPClassUID": ENHANCED_CT}, "1.2.3.4.1", CT_IMAGE, DOES_NOT_MATCH),
        ({}, "1.2.3.4.1", ENHANCED_CT, DOES_NOT_MATCH),
        ({"SOPInstanceUID": "1.2.3.4.5"}, "1.2.3.4.1", CT_IMAGE, DOES_NOT_MATCH),
        ({"StudyInstanceUID": ""}, "1.2.3.4.1", CT_IMAGE, NOT_UNDERSTOOD),
        ({"SOPInstanceUID": "../../evil"}, "../../evil", CT_IMAGE, INVALID_INSTANCE),
        ({"SOPInstanceUID": "/etc/evil"}, "/etc/evil", CT_IMAGE, INVALID_INSTANCE),
        ({"SOPInstanceUID": ".."}, "..", CT_IMAGE, INVALID_INSTANCE),
        ({"SOPInstanceUID": "1.2.3\\1.2.4"}, "1.2.3\\1.2.4", CT_IMAGE, INVALID_INSTANCE),
        ({"SOPInstanceUID": "1.2." + "3" * 61}, "1.2." + "3" * 61, CT_IMAGE, INVALID_INSTANCE),
        ({}, "", CT_IMAGE, INVALID_INSTANCE),
    ],
)  # fmt: skip
def test_what_is_refused(attributes, uid, sop_class, status, sent, inbox, tmp_path):
    data = own_data(sent, **attributes)
    before = {path for path in tmp_path.rglob("*") if "inbox" not in path.parts}
    with running(inbox) as node, Raw(node.port) as peer:
        assert peer.store(uid, data, sop_class) == status
        assert peer.store("1.2.3.4.9", own_data(sent, number=9)) == SUCCESS
        peer.pdu(5, bytes(4))
        [event] = node.told()
    assert event["refused"] == 1 and sum(event["refusals"].values()) == 1 and event["stored"] == 1
    assert "nobody" not in str(event)
    assert [*stored(inbox)] == ["1.2.3/1.2.3.4.9.dcm"]
    assert {path for path in tmp_path.rglob("*") if "inbox" not in path.parts} - before <= {*sent.iterdir()}


@pytest.mark.parametrize("study", ["../../evil", "..", "/etc", "1.2/../../3", ".1.2"])
def test_a_study_uid_that_is_a_path_is_no_path(study, sent, inbox):
    with running(inbox) as node, Raw(node.port) as peer:
        assert peer.store("1.2.3.4.1", own_data(sent, StudyInstanceUID=study)) == SUCCESS
    [name] = stored(inbox)
    assert name.startswith("uid-") and name.endswith("/1.2.3.4.1.dcm")


def test_a_sequence_of_unknown_vr_is_read_over(sent, inbox):
    """What an archive makes of a private sequence that it does not know: UN of undefined length, implicit within."""
    within = struct.pack("<HHL", 0x0019, 0x1003, 4) + b"GEMS"
    begin, *ends = (struct.pack("<HHL", 0xFFFE, *one) for one in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0)))
    private = struct.pack("<HH2sHL", 0x0019, 0x1002, b"UN", 0, 0xFFFFFFFF) + begin + within + b"".join(ends)
    data = own_data(sent)
    at = data.rindex(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    with running(inbox) as node, Raw(node.port) as peer:
        assert peer.store("1.2.3.4.1", data[:at] + private + data[at:]) == SUCCESS
    assert [*stored(inbox)] == ["1.2.3/1.2.3.4.1.dcm"]


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:30], lambda data: os.urandom(2000), lambda data: data[::-1]]
)
def test_a_data_set_that_is_none_is_refused(damage, sent, inbox):
    with running(inbox) as node, Raw(node.port) as peer:
        data = damage(own_data(sent))
        peer.value(command("1.2.3.4.1"), 3)
        peer.value(data, 2)
        assert peer.status() in (NOT_UNDERSTOOD, DOES_NOT_MATCH)
    assert not stored(inbox)


def test_the_same_instance_again_changes_nothing(sent, inbox):
    data = own_data(sent)
    with running(inbox) as node:
        for _ in range(2):
            with Raw(node.port) as peer:
                assert peer.store("1.2.3.4.1", data) == SUCCESS
                [path] = inbox.glob("*/*.dcm")
                last = path.stat()
                peer.pdu(5, bytes(4))
                assert peer.read()[0] == 6
            kept = locals().setdefault("kept", last)
        first, second = node.told(2)
    assert (last.st_ino, last.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert first["stored"] == second["again"] == 1


def test_the_same_instance_with_other_bytes_takes_the_place_of_the_first(sent, inbox):
    first, second = own_data(sent), own_data(sent, PatientID="somebody")
    with running(inbox) as node, Raw(node.port) as peer:
        assert [peer.store("1.2.3.4.1", data) for data in (first, second)] == [SUCCESS, SUCCESS]
        peer.pdu(5, bytes(4))
        [event] = node.told()
    assert event["stored"] == event["replaced"] == 1
    assert [data_set(found) for found in stored(inbox).values()] == [second]


def test_an_association_that_breaks_leaves_what_was_acknowledged_and_nothing_else(sent, inbox):
    with running(inbox) as node:
        with Raw(node.port) as peer:
            assert peer.store("1.2.3.4.1", own_data(sent)) == SUCCESS
            peer.store("1.2.3.4.2", own_data(sent, number=2), last=False)
        [event] = node.told()
    assert (event["ended"], event["why"]) == ("lost", "the connection was closed")
    assert [*stored(inbox)] == ["1.2.3/1.2.3.4.1.dcm"]


@pytest.mark.parametrize(
    ("allow", "title", "called", "why"),
    [
        (["CT1@127.0.0.1"], "CT2", "COVCT", "this AE title may not call from this address"),
        (["CT2@127.0.0.1", "CT1@127.0.0.2"], "CT1", "COVCT", "this AE title may not call from this address"),
        (["*"], "CT1", "OTHER", "it calls an AE title that is not ours"),
    ],
)
def test_who_may_not_call_is_rejected(allow, title, called, why, inbox):
    with running(inbox, allow) as node, Raw(node.port, title, called) as peer:
        assert peer.answer[0] == REJECT
        [event] = node.told()
    assert (event["ended"], event["why"], event["peer"]) == ("rejected", why, title)


def test_another_machine_is_not_even_listened_to(inbox):
    with running(inbox, ["CT1@10.1.2.3"]) as node, Raw(node.port) as peer:
        assert peer.answer[0] == 0
        [event] = node.told(kind="turned-away")
    assert event["address"] == "127.0.0.1"


def test_too_many_associations_are_told_so_and_the_others_go_on(sent, inbox):
    with running(inbox, most=2) as node:
        peers = [Raw(node.port) for _ in range(3)]
        assert [peer.answer[0] for peer in peers] == [2, 2, REJECT]
        assert peers[2].answer[1] == bytes((0, 2, 3, 2))  # transient, by presentation, local limit exceeded
        flood = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(30)]
        assert peers[0].store("1.2.3.4.1", own_data(sent)) == SUCCESS
        for one in (*flood, *(peer.socket for peer in peers)):
            one.close()
        node.told(3)
        time.sleep(0.2)
        with Raw(node.port) as later:
            assert later.answer[0] == 2


@pytest.mark.parametrize(
    "flood",
    [
        struct.pack(">BBL", 4, 0, 0xFFFFFFFF),  # a data PDU of 4 GiB
        struct.pack(">BBL", 4, 0, MAX_PDU + 1),
        struct.pack(">BBL", 1, 0, 0xFFFFFFFF),
        struct.pack(">BBL", 9, 0, 4),
        struct.pack(">BBLLBB", 4, 0, 6, 0xFFFFFFFF, 1, 3),  # a value of 4 GiB in 6 bytes
        struct.pack(">BBLLBB", 4, 0, 6, 2, 9, 2),  # a data set without a command
        struct.pack(">BBL", 4, 0, 3) + bytes(3),
    ],
)
def test_a_flood_is_aborted_before_it_is_read(flood, sent, inbox):
    with running(inbox) as node, Raw(node.port) as peer:
        peer.socket.sendall(flood)
        assert peer.read()[0] == ABORT
        assert node.told()[0]["ended"] == "aborted"
        with Raw(node.port) as other:
            assert other.store("1.2.3.4.1", own_data(sent)) == SUCCESS


def test_a_command_without_end_is_aborted(inbox):
    with running(inbox) as node, Raw(node.port) as peer:
        with suppress(OSError):  # it is cut off somewhere in between
            for _ in range(20):
                peer.value(bytes(8000), 1)
        [event] = node.told()
    assert (event["ended"], event["why"]) == ("aborted", "a command of more than 65536 bytes")


@pytest.mark.parametrize("begin", [b"", request("CT1", "COVCT")[:40], request("CT1", "COVCT")])
def test_a_half_open_association_is_given_up_and_nobody_waits_for_it(begin, sent, inbox):
    with running(inbox, timeout_s=1.0) as node, Raw(node.port, associate=False) as silent:
        silent.socket.sendall(begin)
        with Raw(node.port) as other:
            assert other.store("1.2.3.4.1", own_data(sent)) == SUCCESS
            other.pdu(5, bytes(4))
        assert {event["ended"] for event in node.told(2)} == {"lost", "released"}
        assert "nothing came for 1 s" in {event.get("why") for event in node.events}


def test_tls_without_its_certificate_and_half_a_handshake(sent, inbox, tmp_path):
    ours, theirs = make_authority(tmp_path / "ours"), make_authority(tmp_path / "theirs")
    server = server_context(*ours.signs("server"), authorities=ours.certificate)
    path = instance(sent)
    with running(inbox, tls=server, timeout_s=2.0) as node:
        with socket.create_connection(("127.0.0.1", node.port)):  # says nothing, and nobody waits for it
            assert send(node.port, [path], client_context(ours.certificate, *ours.signs("ct1"))) == [SUCCESS]
        assert send(node.port, [path], client_context(ours.certificate, *theirs.signs("ct2"))) == []
        assert send(node.port, [path], client_context(ours.certificate)) == []
        assert send(node.port, [path]) == []
        told = node.told(5)
    assert [*stored(inbox)] == ["1.2.3/1.2.3.4.1.dcm"]
    assert sum(event.get("stored", 0) for event in told) == 1
    assert any("the peer's certificate is refused" in event.get("why", "") for event in told)


def test_a_study_does_not_settle_before_its_association_has_ended(sent, inbox, tmp_path):
    settling = Settling(0.5, "", [inbox])

    def ready() -> list[str]:
        return settling.ready(survey([inbox], None, index), index, time.monotonic())

    private = tmp_path / "private"
    private.mkdir()
    with running(inbox) as node, open_index(private / INDEX_NAME) as index:
        with Raw(node.port) as peer:
            assert peer.store("1.2.3.4.1", own_data(sent)) == SUCCESS
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                assert ready() == []
                time.sleep(0.1)
            assert (inbox / "1.2.3" / SIGN).exists()
            assert peer.store("1.2.9.4.1", own_data(sent, study="1.2.9")) == SUCCESS
            assert not (inbox / "1.2.3" / SIGN).exists()  # it has gone on to another
            peer.pdu(5, bytes(4))
        node.told()
        assert not (inbox / "1.2.9" / SIGN).exists()
        end = time.monotonic() + 10
        while not ready() and time.monotonic() < end:
            time.sleep(0.1)
        assert ready() == ["1.2.3", "1.2.9"]


def test_a_study_with_all_that_was_announced_need_not_settle(sent, inbox, tmp_path):
    settling, private = Settling(60.0, "", [inbox]), tmp_path / "private"
    private.mkdir()
    two = [own_data(sent, number=number, NumberOfStudyRelatedInstances=2) for number in (1, 2)]
    with running(inbox) as node, open_index(private / INDEX_NAME) as index:

        def ready() -> list[str]:
            return settling.ready(survey([inbox], None, index), index, time.monotonic())

        for number, data in enumerate(two, 1):
            with Raw(node.port) as peer:
                assert peer.store(f"1.2.3.4.{number}", data) == SUCCESS
                assert ready() == []  # its association has not ended
                peer.pdu(5, bytes(4))
            node.told(number)
            time.sleep(0.1)
            assert ready() == (["1.2.3"] if number == 2 else [])
        with Raw(node.port) as peer:  # one more than was announced
            assert peer.store("1.2.3.4.3", own_data(sent, number=3, NumberOfStudyRelatedInstances=2)) == SUCCESS
            peer.pdu(5, bytes(4))
        node.told(3)
        assert ready() == []


def test_signs_and_halves_of_a_listener_that_was_killed_go(inbox):
    (inbox / "1.2.3").mkdir(parents=True)
    (inbox / "1.2.3" / SIGN).touch()
    (inbox / "1.2.3" / "1.2.3.4.1.dcm").write_bytes(b"acknowledged")
    gone = subprocess.Popen(["true"])
    gone.wait()
    (inbox / f".0.{gone.pid}.tmp").write_bytes(b"half")
    Inbox(inbox)
    assert [*stored(inbox)] == ["1.2.3/1.2.3.4.1.dcm"]


def listen(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "covct", "listen", *map(str, arguments), "--port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def port_of(process: subprocess.Popen) -> int:
    return int(process.stdout.readline().partition('"port": ')[2].partition(",")[0])


def test_a_large_instance_takes_little_memory_and_a_signal_ends_the_listener(sent, inbox):
    process = listen(inbox)
    data = own_data(sent)
    with Raw(port_of(process)) as peer:
        assert peer.store("1.2.3.4.1", data) == SUCCESS
        before = memory_mib(process)
        peer.value(command("1.2.3.4.2"), 3)
        peer.value(own_data(sent, number=2), 0)
        for _ in range(6000):
            peer.value(bytes(MAX_PDU - 6), 0)
        peer.value(b"", 2)
        assert peer.status() == SUCCESS
        assert memory_mib(process) - before < 16
        peer.store("1.2.3.4.3", data, last=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
    assert (inbox / "1.2.3" / "1.2.3.4.2.dcm").stat().st_size > 6000 * (MAX_PDU - 6)
    (inbox / "1.2.3" / "1.2.3.4.2.dcm").unlink()
    assert [*stored(inbox)] == ["1.2.3/1.2.3.4.1.dcm"]
    assert "nobody" not in process.stderr.read()


def memory_mib(process: subprocess.Popen) -> float:
    """The most that it ever had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_what_ends_a_listener_is_a_line_of_json_where_lines_are(inbox):
    process = listen(inbox, "--log-format", "json")
    port_of(process)
    process.terminate()
    *_, last = process.communicate(timeout=30)[1].splitlines()
    told = json.loads(last)
    assert (told["event"], told["exit_code"], process.returncode) == ("ended", 130, 130)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--address", "0.0.0.0"], "wanted --allow"),
        (["--address", "192.0.2.1", "--allow", "*"], "cannot listen on 192.0.2.1"),
        (["--allow", "CT1@nowhere"], "wanted TITLE"),
        (["--ae-title", "SEVENTEEN LETTERS"], "wanted an AE title"),
        (["--tls-certificate", "none.pem"], "one is missing"),
        (["--tls-certificate", "none.pem", "--tls-key", "none.key"], "cannot be read"),
    ],
)
def test_usage_errors(arguments, said, inbox):
    error = invoke("listen", inbox, "--port", "0", *arguments).exception
    assert isinstance(error, UsageError)
    assert said in str(error)
