"""The audit log: who sent what where, and nothing of patients."""

import json
import logging
import threading

from covct.exchange.audit import SERIOUS_FAILURE, AuditLog, Instance, Party, audit_log

OURS, ARCHIVE = Party("COVCT", "127.0.0.1"), Party("PACS", "10.0.0.5:104")
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_tells_both_ends_and_the_studies_with_their_instances(tmp_path):
    log = audit_log(tmp_path)
    log.record("sent", OURS, ARCHIVE, [Instance("1.2.3", SEG), Instance("1.2.3", SEG), Instance("1.2.4", SR)])
    [line] = lines(tmp_path / ".covct" / "audit.jsonl")
    assert line["event"] == {"code": "110104", "scheme": "DCM", "meaning": "DICOM Instances Transferred"}
    assert (line["action"], line["outcome"]) == ("R", 0)
    assert line["source"] == {"name": "COVCT", "address": "127.0.0.1"}
    assert line["destination"] == {"name": "PACS", "address": "10.0.0.5:104"}
    assert line["studies"] == [
        {"study_instance_uid": "1.2.3", "sop_classes": [{"uid": SEG, "instances": 2}]},
        {"study_instance_uid": "1.2.4", "sop_classes": [{"uid": SR, "instances": 1}]},
    ]
    assert line["time"].endswith("Z")


def test_what_a_header_calls_a_uid_is_not_repeated_unless_it_is_one(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl")
    log.record("received", Party("DOE^JANE\x1b[2J" * 50), OURS, [Instance("DOE^JANE", SEG)])
    text = (tmp_path / "audit.jsonl").read_text()
    assert "not a UID" in text and "\x1b" not in text
    assert len(lines(tmp_path / "audit.jsonl")[0]["source"]["name"]) < 1000


def test_half_a_line_of_a_crash_spoils_no_other(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_text('{"time": "2026-')
    AuditLog(path).record("alert", OURS, ARCHIVE, outcome=SERIOUS_FAILURE, reason="unknown AE title")
    _, whole = path.read_text().splitlines()
    assert json.loads(whole)["reason"] == "unknown AE title"


def test_lines_of_several_writers_do_not_mix_and_a_rotated_file_is_made_again(tmp_path):
    path = tmp_path / "audit.jsonl"
    studies = [Instance(f"1.2.{number}", SEG) for number in range(200)]

    def write():
        for _ in range(10):
            AuditLog(path).record("sent", OURS, ARCHIVE, studies)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert len(lines(path)) == 40
    path.rename(tmp_path / "audit.jsonl.1")
    AuditLog(path).record("sent", OURS, ARCHIVE)
    assert len(lines(path)) == 1


def test_a_log_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    log = AuditLog(tmp_path / "file" / "audit.jsonl")
    with caplog.at_level(logging.ERROR, "covct"):
        log.record("sent", OURS, ARCHIVE)
        log.record("sent", OURS, ARCHIVE)
    assert len(caplog.records) == 1
