"""Figures for Prometheus: a file that its parsers take, that is never half, and that holds nothing of a patient."""

import math
import os
import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from covct.errors import OutputNotWritable
from covct.unattended.prometheus import METRICS, Metrics, end_in_place, measured, read_counters
from support.running import invoke

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9.e+]+|NaN|[+-]Inf)")


def parsed(text):
    """{(name, labels): value} by the rules of the text exposition format 0.0.4, so far as covct needs them."""
    assert text.endswith("\n"), "the last line must end with a line feed"
    kinds, samples, closed, current = {}, {}, set(), None
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            assert what in ("HELP", "TYPE") and re.fullmatch(NAME, name) and rest
            if what == "TYPE":
                assert name not in kinds, f"a second TYPE of {name}"
                assert rest in ("counter", "gauge", "summary")
                kinds[name] = rest
            if name != current:
                assert name not in closed, f"the lines of {name} do not stand together"
                closed.add(current)
                current = name
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"no sample, and no timestamp is allowed in a textfile: {line}"
        name = match[1]
        family = re.sub("_(sum|count)$", "", name)
        assert (family if kinds.get(family) == "summary" else name) == current, f"{name} stands below {current}"
        key = name, match[2] or ""
        assert key not in samples, f"{line} is there twice"
        samples[key] = float(match[3])
        assert math.isfinite(samples[key])
    return samples


@pytest.mark.slow
def test_a_scan_leaves_its_figures(series_folder, tmp_path, weights, threshold_networks):
    bad = series_folder.parent / "in" / "bad"
    bad.parent.mkdir()
    os.rename(series_folder, bad.parent / "good")
    bad.mkdir()
    (bad / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM")
    file = tmp_path / "covct.prom"
    arguments = ("scan", bad.parent, "-o", tmp_path / "out", "--weights", weights, "--metrics", file)
    assert invoke(*arguments).exit_code == 0
    found = parsed(file.read_text())
    assert found["covct_series_total", 'outcome="done",reason=""'] == 1
    assert found["covct_step_seconds_count", 'step="lungs"'] == 1
    assert found["covct_step_seconds_sum", 'step="write"'] > 0
    assert found["covct_series_seconds_count", 'outcome="done"'] == 1
    assert found["covct_device_info", 'device="cpu"'] == 1
    assert found["covct_unreadable_files", ""] == 1
    assert (found["covct_queue_depth", ""], found["covct_up", ""]) == (0, 0)
    assert found["covct_last_success_timestamp_seconds", ""] > 1.7e9
    assert [path for path in tmp_path.iterdir() if "prom" in path.name] == [file], "no temporary file is left"

    assert invoke(*arguments, "--force").exit_code == 0
    assert parsed(file.read_text())["covct_series_total", 'outcome="done",reason=""'] == 2, "the next night counts on"


def fed(metrics, *events):
    for event in events:
        metrics.observe(event)
    return parsed(metrics.text())


def test_the_queue_shrinks_with_each_outcome(tmp_path):
    metrics = Metrics(tmp_path / "covct.prom", lambda: 5.0)
    rejected = {"event": "rejected", "slug": "not-ct", "seconds": 0.5}
    assert fed(metrics, {"event": "found", "to_do": 2, "problems": 0})["covct_queue_depth", ""] == 2
    found = fed(metrics, rejected, rejected, rejected)  # one more: the next best series of a study
    assert found["covct_queue_depth", ""] == 0
    assert found["covct_series_total", 'outcome="rejected",reason="not-ct"'] == 3
    assert ("covct_last_success_timestamp_seconds", "") not in found


def test_watch_tells_when_it_looked_and_what_waits(tmp_path):
    found = fed(Metrics(tmp_path / "covct.prom", lambda: 7.0), {"event": "look", "waiting": 3, "source_ok": True})
    assert (found["covct_last_look_timestamp_seconds", ""], found["covct_waiting_studies", ""]) == (7, 3)
    assert found["covct_source_ok", ""] == 1


def test_what_is_no_word_of_covct_is_no_label(tmp_path):
    """Labels must be bounded, and a name must not become one."""
    found = fed(
        Metrics(tmp_path / "covct.prom"),
        {"event": "failed", "slug": 'Planted^Name"} 1', "seconds": 1.0, "study": "1.2.3", "message": "Planted"},
    )
    assert found["covct_series_total", 'outcome="failed",reason="other"'] == 1
    assert not any("1.2.3" in labels or "Planted" in labels for _, labels in found)


@pytest.mark.parametrize("content", ["", "covct_series_total{outcome=", "# only words\n", "\xff\xfe", "covct_up x\n"])
def test_a_file_that_was_spoiled_counts_from_0(tmp_path, content):
    file = tmp_path / "covct.prom"
    file.write_bytes(content.encode("latin-1"))
    assert read_counters(file) == {}
    Metrics(file).write()
    assert parsed(file.read_text())["covct_up", ""] == 1


def test_counters_go_on_from_a_file_of_an_earlier_version(tmp_path):
    """Which wrote whole numbers without a point; samples under labels that are not ours are left."""
    file = tmp_path / "covct.prom"
    file.write_text(
        '# TYPE covct_series_total counter\ncovct_series_total{outcome="done",reason=""} 7\n'
        'covct_series_total{reason="x"} 9\nother_total 3\n# TYPE covct_step_seconds summary\n'
        'covct_step_seconds_count{step="lungs"} 2\ncovct_step_seconds_sum{step="lungs"} 3.5\n'
        "# TYPE covct_last_success_timestamp_seconds gauge\ncovct_last_success_timestamp_seconds 1764468626.124\n"
    )
    found = parsed(Metrics(file).text())
    assert found["covct_series_total", 'outcome="done",reason=""'] == 7
    assert found["covct_step_seconds_sum", 'step="lungs"'] == 3.5
    assert found["covct_last_success_timestamp_seconds", ""] == 1764468626.124
    assert len([key for key in found if key[0] == "covct_series_total"]) == 1 and ("other_total", "") not in found


def test_the_library_parses_every_family_and_adds_none_of_its_own(tmp_path):
    metrics = Metrics(tmp_path / "covct.prom", lambda: 1764468626.124)
    fed(metrics, {"event": "step", "step": "lungs", "seconds": 1.5}, {"event": "problem", "slug": "unreadable"})
    families = list(text_string_to_metric_families(metrics.text()))
    told = {(one.name + "_total" * (one.type == "counter"), one.type, one.documentation) for one in families}
    assert told <= {(name, *rest) for name, rest in METRICS.items()} and len(told) == len(families) == 7
    assert read_counters(tmp_path / "covct.prom") == {}, "nothing was written"


def test_gauges_of_the_last_run_are_not_taken_over(tmp_path):
    file = tmp_path / "covct.prom"
    with measured(file) as observe:
        observe({"event": "found", "to_do": 9})
    assert parsed(Metrics(file).text())["covct_queue_depth", ""] == 0


def test_a_folder_that_cannot_be_written_ends_the_command_at_its_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match="cannot write metrics"), measured(tmp_path / "file" / "covct.prom"):
        pass


def test_a_disk_that_fills_up_later_costs_a_warning_and_no_series(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    with measured(tmp_path / "covct.prom") as observe:
        monkeypatch.setattr(os, "replace", full)
        for _ in range(3):
            observe({"event": "rejected", "slug": "not-ct", "seconds": 1.0})
    assert caplog.text.count("No space left") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["covct.prom"]
    assert parsed((tmp_path / "covct.prom").read_text())["covct_up", ""] == 0, "one byte, in its place"


def test_a_series_that_takes_long_does_not_make_the_last_event_look_old(tmp_path, monkeypatch):
    """Whoever is killed with its container is told from whoever works by the age of that time alone."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with measured(tmp_path / "covct.prom") as observe:
        for seconds in (1001.0, 1020.0, 1021.0):
            clock[0] = seconds
            observe({"event": "step", "step": "lungs", "seconds": 1.0})
        seen = parsed((tmp_path / "covct.prom").read_text())
        assert seen["covct_step_seconds_count", 'step="lungs"'] == 2, "written at the second, 15 s later"


@pytest.mark.parametrize("content", [b"", b"covct_up", b"a 1\ncovct_up 0\n", bytes(100)])
def test_what_does_not_say_up_is_left_as_it_is(content, tmp_path):
    file = tmp_path / "covct.prom"
    file.write_bytes(content)
    end_in_place(file)
    assert file.read_bytes() == content
    end_in_place(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
