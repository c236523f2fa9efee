"""`covct send` and `--send-to` as processes: killed at any moment, beside a scan, over TLS."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from covct.commands import scan
from covct.disk.places import PRIVATE
from covct.errors import OutputLocked
from covct.exchange.audit import audit_log
from covct.exchange.deliveries import only_sender
from covct.exchange.destinations import of_texts
from covct.exchange.sender import send
from covct.exchange.tls import server_context
from covct.phantom.chest import make_phantom
from covct.phantom.dicom import write_dicom_series
from support.certificates import make_authority
from support.checkout import ROOT
from support.chests import SMALL
from support.pacs import free_ports
from support.processes import child_of
from support.receivers import node, objects_of, put_result, service
from support.running import invoke, read_json
from support.thresholds import make_networks, make_weights

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("COVCT_KILLS", "3"))
COMMAND = [sys.executable, "-m", "covct", "send"]


def started(out, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*COMMAND, str(out), *map(str, arguments)], env=environment, stderr=subprocess.PIPE)


def sent(out, *to, tables=None):
    return send(out, of_texts(list(to), tables or {}), lambda event: None, audit_log(out))


def test_a_sender_killed_at_any_moment_loses_nothing_and_the_archive_keeps_one_of_each(tmp_path):
    out, results = tmp_path / "out", 5 * KILLS
    for number in range(results):
        put_result(out, f"1.2.{number}/1.2.{number}.1", files=("segmentation.seg.dcm", "measurements.sr.dcm"))
    chance = random.Random(7)

    def slow(*_):
        time.sleep(0.01)
        return 0x0000

    with node(status=slow) as pacs:
        for _ in range(KILLS):
            before, process = len(pacs.got), started(out, "--to", pacs.address)
            deadline = time.monotonic() + 30
            while len(pacs.got) == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(chance.random() * 0.3)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        process = started(out, "--to", pacs.address)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert pacs.kept == objects_of(out) and len(pacs.kept) == 2 * results
        more = len(pacs.got) - 2 * results
        assert more <= KILLS * 2, "no more than one result's objects once more for each kill"
        print(f"{KILLS} kills: {more} objects were sent once more")
        assert started(out, "--to", pacs.address).wait(60) == 0
        assert len(pacs.got) - 2 * results == more


def test_exit_codes_and_what_is_printed(tmp_path):
    out = tmp_path / "out"
    put_result(out, "1.2.1/1.2.1.1")
    [port] = free_ports(1)
    result = invoke("send", out, "--to", f"PACS@127.0.0.1:{port}", "--json")
    assert result.exit_code == 3
    missed, last = map(json.loads, result.stdout.splitlines())
    assert missed["event"] == "not-reached" and "Connection refused" in missed["why"]
    assert (last["event"], last["waiting"]) == ("destination", 4)
    with node(port) as pacs:
        metrics = tmp_path / "send.prom"
        result = invoke("send", out, "--to", pacs.address, "--metrics", metrics)
        assert result.exit_code == 0 and "4 delivered" in result.stderr
    assert f'covct_deliveries_waiting{{destination="pacs-127-0-0-1-{port}"}} 0.0' in metrics.read_text()
    assert isinstance(invoke("send", tmp_path / "none", "--to", "A@b:1").exception, Exception)


def test_one_sender_a_tree_beside_whoever_writes_results(tmp_path):
    from covct.disk import state

    out = tmp_path / "out"
    put_result(out, "1.2.1/1.2.1.1")
    with node() as pacs, state.lock(out):
        assert sent(out, pacs.address)[0].delivered == 4
    with only_sender(out), pytest.raises(OutputLocked, match="another covct is sending from here"):
        sent(out, "PACS@127.0.0.1:1")


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """A series of few small slices."""
    folder = tmp_path_factory.mktemp("chest") / "in"
    chest = make_phantom(**{**SMALL, "slices": 16, "rows": 64, "columns": 64, "pixel_spacing_mm": (6.0, 6.0)}, seed=1)
    write_dicom_series(chest, folder)
    return folder


@pytest.fixture
def night(chest, tmp_path, monkeypatch):
    """Output tree and arguments of a scan of one series."""
    monkeypatch.setattr(scan, "networks_of", lambda *_: make_networks)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the sender, a process of its own
    make_weights(tmp_path / "weights")
    out = tmp_path / "out"
    return out, ["scan", chest, "-o", out, "--weights", tmp_path / "weights", "--formats", "seg,sr,ko"]


def test_a_scan_sends_beside_its_work_and_its_exit_code_tells_what_waits(night):
    out, arguments = night
    [port] = free_ports(1)
    config = out.parent / "covct.toml"
    config.write_text(f'[destinations.pacs]\naddress = "PACS@127.0.0.1:{port}"\nformats = ["seg", "sr"]\n')
    result = invoke(*arguments, "--send-to", "pacs", "--json")
    assert result.exit_code == 3, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert (events[-1]["event"], events[-1]["name"], events[-1]["waiting"]) == ("destination", "pacs", 2)
    assert "done" in {event["event"] for event in events}
    with node(port) as pacs:
        assert invoke(*arguments, "--send-to", "pacs").exit_code == 0
        every = objects_of(out)
        assert len(every) == 3 and len(pacs.kept) == 2 and pacs.kept.items() <= every.items()
    wrong = invoke(*arguments, "--send-to", "pasc")
    assert "--send-to pasc: no such destination; did you mean pacs?" in str(wrong.exception)


def test_a_sender_dies_with_the_run_that_it_is_beside(tmp_path):
    put_result(tmp_path / "out", "1.2.1/1.2.1.1")
    [port] = free_ports(1)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from covct.exchange.beside import Task, beside; from covct.exchange.destinations import of_texts\n"
        f"task = Task(Path(sys.argv[1]), ('P@127.0.0.1:{port}',), of_texts(['P@127.0.0.1:{port}'], {{}}), None)\n"
        "with beside(task, lambda event: None) as emit:\n    emit({'event': 'alive'}); print('on'); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    run = subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"], env=environment, stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"on\n"
    sender = child_of(run)
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{sender}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{sender}").exists()


def test_verify_and_older_trees_know_nothing_of_deliveries(night):
    out, arguments = night
    invoke(*arguments)
    with node() as pacs:
        sent(out, pacs.address)
        assert invoke("verify", out, "--no-dciodvfy").exit_code == 0
        assert read_json(out / PRIVATE / "sending.json")["destinations"][0]["delivered"] == 3
        assert invoke(*arguments).exit_code == 0, "a scan recovers, and leaves what was delivered entered"
        assert sent(out, pacs.address)[0].delivered == 3 and len(pacs.got) == 3


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("certificates") / "authority")


@pytest.fixture
def one(tmp_path):
    put_result(tmp_path / "out", "1.2.1/1.2.1.1")
    return tmp_path / "out"


def test_over_tls_with_certificates_of_both(one, authority):
    ours = authority.signs("ours")
    context = server_context(*authority.signs("theirs"), authorities=authority.certificate)
    access = {"authorities": str(authority.certificate), "certificate": str(ours[0]), "key": str(ours[1])}
    with node(tls=context) as pacs, service(tls=context) as web:
        tables = {"pacs": {"address": f"dicoms://{pacs.address}"} | access, "web": {"address": web.address} | access}
        states = sent(one, "pacs", "web", tables=tables)
        assert [state.delivered for state in states] == [4, 4], [state.error for state in states]
        assert pacs.kept == web.kept == objects_of(one)


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ({"days": "-1"}, "certificate has expired"),
        ({"host": "10.0.0.1"}, "IP address mismatch"),
    ],
)
def test_a_certificate_that_is_not_good_is_said_to_be_so(certificate, why, one, authority):
    context = _unchecked(*authority.signs("bad", **certificate))
    with node(tls=context) as pacs, service(tls=context) as web:
        tables = {
            "pacs": {"address": f"dicoms://{pacs.address}", "authorities": str(authority.certificate)},
            "web": {"address": web.address, "authorities": str(authority.certificate)},
        }
        for state in sent(one, "pacs", "web", tables=tables):
            assert why in state.error, state.error
            assert state.waiting == 4


def test_an_authority_that_nobody_knows(one, authority):
    context = _unchecked(*authority.signs("unknown"))
    with service(tls=context) as web:
        [state] = sent(one, web.address)
    assert "certificate" in state.error and state.waiting == 4


def _unchecked(certificate, key):
    """A server that does not look at its own certificate."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
