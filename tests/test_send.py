"""`covct send`: every object of the results where it should be, once, whatever the archives do."""

import hashlib
import json
import subprocess
import time
from io import BytesIO

import pydicom
import pynetdicom
import pytest

from covct.exchange import beside, calling, commitment, sender
from covct.exchange.audit import audit_log
from covct.exchange.deliveries import read_deliveries
from covct.exchange.destinations import Fault, named, of_texts
from covct.exchange.tls import client_context, server_context
from covct.unattended.sending import read_sending
from support.certificates import make_authority
from support.pacs import free_ports
from support.receivers import KO, SR, node, objects_of, put_result, service, stalling, stored, write_object
from support.running import change_json, invoke, read_json

FOLDERS = ("1.2.1/1.2.1.1", "1.2.2/1.2.2.1")


@pytest.fixture
def out(tmp_path):
    """Two results of four objects."""
    for folder in FOLDERS:
        put_result(tmp_path / "out", folder)
    return tmp_path / "out"


def send(out, *to, tables=None, **options):
    """One attempt; how each destination stands."""
    events = []
    states = sender.send(out, of_texts(list(to), tables or {}), events.append, audit_log(out), **options)
    assert json.dumps(events)
    return states[0] if len(to) == 1 else states


def list_file(place, name):
    """Another file in its place, which its outcome knows of."""
    files = read_json(place / "outcome.json")["files"]
    change_json(place / "outcome.json", files=files | {name: hashlib.sha256((place / name).read_bytes()).hexdigest()})


def prune_captures(place):
    (place / "capture-0001.sc.dcm").unlink()
    files = read_json(place / "outcome.json")["files"]
    del files["capture-0001.sc.dcm"]
    change_json(place / "outcome.json", files=files, pruned=["sc"])


def counted(state):
    return state.delivered, state.waiting, state.refused


# C-STORE


def test_every_object_once_byte_for_byte_and_nothing_twice(out):
    with node() as pacs:
        assert counted(send(out, pacs.address)) == (8, 0, 0)
        assert pacs.kept == objects_of(out)
        assert counted(send(out, pacs.address)) == (8, 0, 0)
        assert len(pacs.got) == 8
    audit = [json.loads(line) for line in (out / ".covct/audit.jsonl").read_text().splitlines()]
    assert [sum(c["instances"] for s in line["studies"] for c in s["sop_classes"]) for line in audit] == [4, 4]
    assert "Doe" not in (out / ".covct/audit.jsonl").read_text()


def test_a_node_that_takes_no_seg_gets_the_rest_and_the_refusal_stands_with_its_reason(out):
    with node(takes=(SR,)) as pacs:
        state = send(out, pacs.address)
    assert counted(state) == (2, 0, 6)
    assert not state.is_done
    whys = {reason.why: reason.objects for reason in state.reasons}
    assert whys["it does not take Segmentation Storage"] == 2
    told = " ".join(invoke("status", out).stdout.split())
    assert "2 refused" in told and "it does not take Segmentation Storage" in told
    [row] = json.loads(invoke("status", out, "--json").stdout)["destinations"]
    assert (row["delivered"], row["refused"]) == (2, 6)


def test_a_node_that_takes_nothing_at_all_is_no_dead_one(out):
    with node(takes=()) as pacs:
        state = send(out, pacs.address)
    assert counted(state) == (0, 0, 8) and not state.error


@pytest.mark.parametrize(
    ("status", "expected", "why"),
    [
        (0xA700, (0, 8, 0), "out of resources (status A700)"),
        (0xA900, (0, 0, 8), "does not match its SOP class (status A900)"),
        (0xC001, (0, 0, 8), "cannot process the object (status C001)"),
        (0x0124, (0, 0, 8), "not authorized"),
        (0x0111, (8, 0, 0), ""),
        (0xB000, (8, 0, 0), ""),
    ],
)
def test_what_a_status_means(status, expected, why, out):
    with node(status=lambda *_: status) as pacs:
        state = send(out, pacs.address)
    assert counted(state) == expected
    assert why in "".join(reason.why for reason in state.reasons)


def test_an_archive_that_is_down_and_back(out):
    [port] = free_ports(1)
    state = send(out, f"PACS@127.0.0.1:{port}")
    assert counted(state) == (0, 8, 0)
    assert "Connection refused" in state.error and state.failures == 1 and state.not_before > time.time()
    with node(port) as pacs:
        assert counted(send(out, f"PACS@127.0.0.1:{port}")) == (8, 0, 0)
        assert pacs.kept == objects_of(out)
    assert not read_sending(out).state_of(f"PACS@127.0.0.1:{port}").error


@pytest.mark.parametrize(
    ("address", "rules", "why"),
    [
        ("PACS@no-such-host.invalid:104", None, "does not resolve"),
        ("WRONG@127.0.0.1:{port}", {"require_called_aet": True}, "not called WRONG"),
        ("PACS@127.0.0.1:{port}", {"require_calling_aet": ["OTHER"]}, "does not know our AE title COVCT"),
    ],
)
def test_what_cannot_be_reached_is_said_in_a_sentence(address, rules, why, out):
    with node(**(rules or {})) as pacs:
        state = send(out, address.format(port=pacs.port))
    assert why in state.error
    assert counted(state) == (0, 8, 0)


def test_an_association_that_breaks_loses_nothing_and_what_was_taken_stays_entered(out):
    taken = []

    def breaks(sop_class, uid):
        taken.append(uid)
        return None if len(taken) == 3 else 0x0000

    with node(status=breaks) as pacs:
        first = send(out, pacs.address)
        assert counted(first) == (2, 6, 0) and "broke the association off" in first.error
        assert counted(send(out, pacs.address)) == (8, 0, 0)
        assert pacs.kept == objects_of(out)


def test_a_node_that_stops_reading_holds_nothing_up(out, monkeypatch):
    """The library would wait for ever, and so would whoever waits for the sender."""
    monkeypatch.setattr(calling, "STALLED_S", 0.5)
    place = out / FOLDERS[0]
    write_object(place / "report.pdf.dcm", FOLDERS[0], "large", "x" * (16 << 20))
    list_file(place, "report.pdf.dcm")
    with node() as pacs, stalling(pacs.port, 100_000) as port:
        state = send(out, f"PACS@127.0.0.1:{port}")
        assert "broke the association off" in state.error
        assert send(out, pacs.address).delivered == 8


def test_pauses_double_are_bounded_and_outlive_the_process(out):
    [port] = free_ports(1)
    address = f"PACS@127.0.0.1:{port}"
    pauses = []
    for _ in range(10):
        state = send(out, address)
        pauses.append(state.not_before - time.time())
    assert pauses == pytest.approx([30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600], abs=5)

    def stop(seconds):
        raise KeyboardInterrupt

    with node(port) as pacs, pytest.raises(KeyboardInterrupt):
        send(out, address, every_s=5.0, sleep=stop)  # a sender that was started anew: its pause is not over
    assert not pacs.got


def test_a_follower_leaves_what_was_refused_alone_for_a_while(out):
    tried = []

    def refuses(sop_class, uid):
        tried.append(uid)
        return 0xC000

    looks = []

    def sleep(seconds):
        assert seconds >= 0.1
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with node(status=refuses) as pacs, pytest.raises(KeyboardInterrupt):
        send(out, pacs.address, every_s=0.1, sleep=sleep)
    assert len(tried) == 8


def test_a_follower_sends_what_comes_and_what_is_added(out):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            put_result(out, "1.2.3/1.2.3.1", files=("segmentation.seg.dcm",))
        elif len(looks) == 2:
            put_result(out, "1.2.3/1.2.3.1", files=("segmentation.seg.dcm", "measurements.sr.dcm"))
        elif len(looks) == 3:
            raise KeyboardInterrupt

    with node() as pacs, pytest.raises(KeyboardInterrupt):
        send(out, pacs.address, every_s=0.1, sleep=sleep)
    assert len(pacs.got) == 10 and pacs.kept == objects_of(out)


def test_destinations_take_turns_and_what_one_refuses_is_tried_once_a_call(out, monkeypatch):
    monkeypatch.setattr(sender, "TURN_S", 0.0)
    monkeypatch.setattr(sender, "RESULTS_AT_ONCE", 1)
    came = []

    def refuses(*_):
        came.append("one")
        return 0xC000

    with node(status=refuses) as one, node(status=lambda *_: came.append("two") or 0x0000) as two:
        first, second = send(out, one.address, two.address)
    assert counted(first) == (0, 0, 8) and counted(second) == (8, 0, 0)
    assert came == ["one"] * 4 + ["two"] * 4 + ["one"] * 4 + ["two"] * 4


# STOW-RS


def test_stow_takes_each_object_in_its_own_transfer_syntax(out):
    with service() as web:
        assert counted(send(out, web.address)) == (8, 0, 0)
        assert web.kept == objects_of(out)
        assert len(web.requests) == 2, "one a result"
        send(out, web.address)
        assert len(web.requests) == 2


@pytest.mark.parametrize("status", [200, 202, 409])
def test_failures_inside_an_answer_are_read_whatever_its_status_says(status, out):
    seg = {uid for uid in objects_of(out)}
    first, second, *_ = sorted(seg)

    def answer(objects):
        failed = {uid: reason for uid, reason in ((first, 0x0122), (second, 0xA700)) if uid in objects}
        return stored(objects, failed, status if failed else 200)

    with service(answer) as web:
        state = send(out, web.address)
    assert counted(state) == (6, 1, 1)
    whys = "".join(reason.why for reason in state.reasons)
    assert "does not support the SOP class" in whys and "out of resources" in whys


@pytest.mark.parametrize("kind", ["application/dicom+json", "text/html", ""])
def test_an_answer_of_200_that_says_nothing_of_an_object_is_no_delivery(kind, out):
    with service(lambda objects: (200, {"Content-Type": kind}, b"{}" if "json" in kind else b"<p>Welcome")) as web:
        state = send(out, web.address)
    assert counted(state) == (0, 8, 0)
    assert "does not say that it was stored" in state.reasons[0].why


def test_an_answer_in_xml_is_read(out):
    def answer(objects):
        items = "".join(
            f'<Item number="{n}"><DicomAttribute tag="00081155" vr="UI" keyword="ReferencedSOPInstanceUID">'
            f'<Value number="1">{uid}</Value></DicomAttribute></Item>'
            for n, uid in enumerate(objects, 1)
        )
        sequence = f'<DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence">{items}</DicomAttribute>'
        text = f"<NativeDicomModel>{sequence}</NativeDicomModel>"
        return 200, {"Content-Type": "application/dicom+xml"}, text.encode()

    with service(answer) as web:
        assert counted(send(out, web.address)) == (8, 0, 0)


def test_who_signs_a_services_certificate_may_be_known_to_the_system_alone(out, tmp_path, monkeypatch):
    authority = make_authority(tmp_path / "ours")
    with service(tls=server_context(*authority.signs("theirs"))) as web:
        assert "certificate" in send(out, web.address).error
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        assert counted(send(out, web.address)) == (8, 0, 0)


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (401, {}, "does not accept our credentials (HTTP 401)"),
        (401, {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}, "its clock and ours are"),
        (404, {}, "nothing takes objects at this address (HTTP 404)"),
        (503, {"Retry-After": "900"}, "takes nothing at the moment (HTTP 503)"),
        (302, {"Location": "/login"}, "leads to another address"),
    ],
)
def test_a_service_that_takes_nothing_is_asked_once_and_left_alone(status, headers, why, out):
    with service(lambda objects: (status, headers, b"")) as web:
        state = send(out, web.address)
        assert len(web.requests) == 1
    assert counted(state) == (0, 8, 0)
    assert why in state.error
    if "Retry-After" in headers:
        assert state.not_before - time.time() > 800


def test_one_object_that_makes_a_request_too_large_keeps_back_no_other(out):
    seg = next(uid for uid in objects_of(out))
    with service(lambda objects: (413, {}, b"") if seg in objects else stored(objects)) as web:
        state = send(out, web.address)
    assert counted(state) == (7, 0, 1)
    assert "too large for it (HTTP 413)" in state.reasons[0].why


def test_credentials_come_from_a_file_or_the_environment_at_each_connection(out, tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("first\n")
    monkeypatch.setenv("PACS_PASSWORD", "covct:secret")
    with service() as web:
        tables = {
            "bearer": {"address": web.address, "auth_file": str(token)},
            "basic": {"address": web.address, "auth_variable": "PACS_PASSWORD"},
        }
        send(out, "bearer", tables=tables)
        token.write_text("second\n")
        put_result(out, "1.2.3/1.2.3.1", files=("segmentation.seg.dcm",))
        send(out, "bearer", tables=tables)
        send(out, "basic", tables=tables)
    said = [headers.get("Authorization") for headers in web.headers]
    assert said == ["Bearer first"] * 2 + ["Bearer second"] + ["Basic Y292Y3Q6c2VjcmV0"] * 3
    every = "".join(path.read_text() for path in (out / ".covct").rglob("*") if path.is_file())
    assert "secret" not in every and "first" not in every and "c2VjcmV0" not in every


# Results that change


def test_what_replaces_a_result_is_sent_and_what_it_replaces_is_told_of(out):
    with node() as pacs:
        send(out, pacs.address)
        put_result(out, FOLDERS[0], key="b")
        state = send(out, pacs.address)
        assert (state.delivered, state.waiting, state.superseded) == (8, 0, 4)
        assert len(pacs.got) == 12
    assert "reject or delete them there" in " ".join(invoke("status", out).stdout.split())


def test_an_archive_that_understands_rejection_notes_gets_one_after_the_new_objects(out):
    before = {uid for uid, content in objects_of(out).items()}
    with node() as pacs:
        tables = {"pacs": {"address": pacs.address, "rejects": True}}
        send(out, "pacs", tables=tables)
        old = {str(pydicom.dcmread(path).SOPInstanceUID) for path in (out / FOLDERS[0]).glob("*.dcm")}
        put_result(out, FOLDERS[0], key="b")
        state = send(out, "pacs", tables=tables)
        assert counted(state) == (8, 0, 0) and state.superseded == 0
        assert len(pacs.got) == 8 + 4 + 1
        _, note = pacs.got[-1]
        assert old <= before
        send(out, "pacs", tables=tables)
        assert len(pacs.got) == 13, "once"
    read = pydicom.dcmread(BytesIO(note), force=True)
    assert read.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert read.PatientID == "P1" and read.StudyInstanceUID == "1.2.1"
    [study] = read.CurrentRequestedProcedureEvidenceSequence
    told = {i.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence}
    assert told == old


def test_a_rejection_note_that_is_refused_is_left_alone_for_a_while(out):
    tried = []

    def refuses_notes(sop_class, uid):
        tried.extend([uid] if sop_class == KO else [])
        return 0xC000 if sop_class == KO else 0x0000

    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    with node(status=refuses_notes) as pacs:
        tables = {"pacs": {"address": pacs.address, "rejects": True}}
        send(out, "pacs", tables=tables)
        put_result(out, FOLDERS[0], key="b")
        with pytest.raises(KeyboardInterrupt):
            send(out, "pacs", tables=tables, every_s=0.1, sleep=sleep)
    assert len(tried) == 1
    assert read_sending(out).state_of("pacs").waiting == 4


def test_a_result_that_is_being_replaced_is_not_taken_for_one_that_has_gone(out):
    with node() as pacs:
        send(out, pacs.address)
        aside = out / ".covct" / "old" / FOLDERS[0]
        aside.parent.mkdir(parents=True)
        (out / FOLDERS[0]).rename(aside)
        assert send(out, pacs.address).superseded == 0
        aside.rename(out / FOLDERS[0])
        assert counted(send(out, pacs.address)) == (8, 0, 0)


def test_other_bytes_under_a_uid_that_an_archive_keeps_are_no_delivery(out):
    with node() as pacs:
        send(out, pacs.address)
    place = out / FOLDERS[0]
    write_object(place / "segmentation.seg.dcm", FOLDERS[0], f"a{FOLDERS[0]}segmentation.seg.dcm", "of a later version")
    list_file(place, "segmentation.seg.dcm")
    with node(pacs.port, status=lambda *_: 0x0111) as pacs:
        state = send(out, pacs.address)
    assert state.refused == 1 and "it keeps the object that it got under this UID before" in state.reasons[0].why


def test_what_was_pruned_before_it_was_sent_is_told(out):
    prune_captures(out / FOLDERS[0])
    with node() as pacs:
        state = send(out, pacs.address)
        assert (state.delivered, state.pruned) == (7, 1) and not state.is_done


def test_what_was_pruned_after_it_was_sent_stands_there(out):
    with node() as pacs:
        send(out, pacs.address)
        prune_captures(out / FOLDERS[0])
        state = send(out, pacs.address)
        assert (state.delivered, state.pruned, state.superseded) == (7, 0, 0)


def test_a_file_that_is_not_the_one_of_its_outcome_is_not_sent(out):
    (out / FOLDERS[0] / "report.pdf.dcm").write_bytes(b"spoiled")
    with node() as pacs:
        state = send(out, pacs.address)
    assert counted(state) == (7, 1, 0)
    assert "covct verify" in state.reasons[0].why


def test_rules_say_which_results_and_which_formats(out):
    with node() as pacs:
        tables = {
            "none": {"address": pacs.address, "when": "infection_percent >= 99.5"},
            "some": {"address": pacs.address, "when": ["outcome = done", "infection_percent > 0"], "formats": ["seg"]},
        }
        none, some = send(out, "none", "some", tables=tables)
    assert (none.delivered, none.waiting) == (0, 0)
    assert (some.delivered, some.waiting) == (2, 0) and len(pacs.got) == 2


# Storage commitment


def test_what_an_archive_commits_itself_to_is_entered_and_the_rest_is_sent_again(out):
    doubts = []

    def commits(uid):
        if not doubts:
            doubts.append(uid)
        return uid != doubts[0]

    with node(commits=commits) as pacs:
        tables = {"pacs": {"address": pacs.address, "commit": True}}
        state = send(out, "pacs", tables=tables)
        assert (state.delivered, state.waiting) == (7, 1)
        assert "does not take responsibility" in state.reasons[0].why
        doubts[0] = ""
        state = send(out, "pacs", tables=tables)
        assert counted(state) == (8, 0, 0)
        assert len(pacs.got) == 9
    assert all(one.committed for one in read_deliveries(out, "pacs", FOLDERS[0]).objects)


def test_a_sender_beside_a_run_that_ends_is_told_of_once(out, monkeypatch, caplog):
    """Its own words go nowhere: without this, a watch whose sender cannot start sends nothing and says nothing."""
    monkeypatch.setattr(beside, "AGAIN_S", 0.0)
    monkeypatch.setattr(beside, "_start", lambda *_: subprocess.Popen(["false"]))
    events = []
    with beside.beside(beside.Task(out, (), (), None), events.append) as emit:
        deadline = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < deadline:
            emit({"event": "alive"})
            time.sleep(0.01)
        for _ in range(20):
            emit({"event": "alive"})
            time.sleep(0.01)
    assert caplog.messages == ["covct send beside this run ended with exit code 1; it is started again"]


def test_commitment_is_heard_by_tls_where_objects_go_by_it(tmp_path):
    authority = make_authority(tmp_path / "ours")
    certificate, key = map(str, authority.signs("covct"))
    [port] = free_ports(1)
    table = {"address": "dicoms://PACS@127.0.0.1:1", "commit": True, "commit_port": port}
    with pytest.raises(Fault, match="wanted certificate and key too"):
        named("pacs", table)
    destination = named("pacs", table | {"certificate": certificate, "key": key})
    entity = pynetdicom.AE("PACS")
    entity.add_requested_context(commitment.PUSH_MODEL)
    with commitment.listening([destination]):
        assert not entity.associate("127.0.0.1", port, ae_title="COVCT").is_established
        tls = client_context(authority.certificate), "127.0.0.1"
        association = entity.associate("127.0.0.1", port, ae_title="COVCT", tls_args=tls)
        assert association.is_established
        association.release()


def test_a_report_that_comes_twice_or_of_nothing_asked_for_is_passed_over(out):
    [destination] = of_texts(["pacs"], {"pacs": {"address": "PACS@127.0.0.1:1", "commit": True}})
    reports = commitment.Reports()
    reports.asked["1.2.3"] = commitment.Asked("pacs", {"1.9": FOLDERS[0]})
    for transaction in ("1.2.3", "1.2.3", "1.2.4"):
        reports.came.put((transaction, {"1.9"}, {}))
    assert commitment.enter(out, destination, reports) == [FOLDERS[0]]
    assert not reports.waiting and not commitment.enter(out, destination, reports)


def test_a_node_without_storage_commitment_is_said_to_have_none(out):
    with node() as pacs:
        state = send(out, "pacs", tables={"pacs": {"address": pacs.address, "commit": True}})
    assert state.delivered == 8 and state.waiting == 8
