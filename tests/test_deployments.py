"""Manifests, units and compose files of examples/: valid for those who read them, and for covct."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from covct import RESEARCH_USE, cli, errors
from support.checkout import ROOT
from support.pacs import PLUGIN, Orthanc, die_with_parent, free_ports

EXAMPLES = ROOT / "examples"
KUBERNETES = EXAMPLES / "kubernetes"
MANIFESTS = {
    f"{path.name} {one['kind']}": one
    for path in sorted(KUBERNETES.glob("*.yaml"))
    for one in yaml.safe_load_all(path.read_text())
}
PODS = {
    "nightly": MANIFESTS["nightly.yaml CronJob"]["spec"]["jobTemplate"]["spec"]["template"],
    "watch": MANIFESTS["watch.yaml Deployment"]["spec"]["template"],
    "shards": MANIFESTS["shards.yaml Job"]["spec"]["template"],
}
JOBS = {
    "nightly": MANIFESTS["nightly.yaml CronJob"]["spec"]["jobTemplate"]["spec"],
    "shards": MANIFESTS["shards.yaml Job"]["spec"],
}
COMMANDS = typer.main.get_command(cli.app).every()  # type: ignore[attr-defined]
each_pod = pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)


def is_understood(line):
    """A command line of covct: the command is there, and so are its options."""
    command, options = line[0], {word for word in line if word.startswith("--")}
    if command not in COMMANDS:
        pytest.skip(f"covct {command} is not there")
    known = {option for param in COMMANDS[command].params for option in (*param.opts, *param.secondary_opts)}
    return options <= known


@pytest.mark.parametrize("folder", ["kubernetes", "slurm", "systemd", "compose-night"])
def test_readme_names_every_file_and_says_what_it_is_not(folder):
    text = (EXAMPLES / folder / "README.md").read_text()
    assert RESEARCH_USE in text
    files = {path.name for path in (EXAMPLES / folder).iterdir() if path.name[0] != "."} - {"README.md", "__pycache__"}
    assert [name for name in files if f"`{name}`" not in text] == []


# Kubernetes


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_manifest_is_valid_by_kubernetes_own_schema(manifest):
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@each_pod
def test_a_pod_has_no_rights_that_it_does_not_need(pod):
    spec, [container] = pod["spec"], pod["spec"]["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    limits = container["securityContext"]
    assert limits["readOnlyRootFilesystem"] and limits["allowPrivilegeEscalation"] is False
    assert limits["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {"/in", "/out", "/tmp"} and mounts["/in"]["readOnly"]
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in spec["volumes"]}
    assert (
        MANIFESTS["storage.yaml NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items()
        <= pod["metadata"]["labels"].items()
    )
    assert "ingress" not in MANIFESTS["storage.yaml NetworkPolicy"]["spec"]


@each_pod
def test_a_pod_runs_our_images_and_commands(pod):
    [container] = pod["spec"]["containers"]
    name = {"cpu": "Dockerfile", "gpu": "Dockerfile.gpu"}[container["image"].removeprefix("covct:")]
    assert (ROOT / "docker" / name).is_file()
    assert is_understood(container["args"])
    assert (container["image"] == "covct:gpu") == ("nvidia.com/gpu" in container["resources"]["limits"])


def test_probes_ask_the_sign_of_life():
    [container] = PODS["watch"]["spec"]["containers"]
    out = container["args"][container["args"].index("--out") + 1]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        program, *line = container[probe]["exec"]["command"]
        assert program == "covct" and line[:2] == ["health", out] and is_understood(line)
        assert container[probe]["timeoutSeconds"] >= 30, "Python starts in less, also on a busy node"
    assert MANIFESTS["watch.yaml Deployment"]["spec"]["strategy"]["type"] == "Recreate", "one writer an output tree"
    assert MANIFESTS["watch.yaml Deployment"]["spec"]["replicas"] == 1


@each_job
def test_exit_codes_are_mapped(job):
    """What another try cannot mend is not tried again; what it may is, and a drained node counts for nothing."""
    assert job["template"]["spec"]["restartPolicy"] == "Never", "or the policy is not looked at"
    rules = job["podFailurePolicy"]["rules"]
    assert rules[0]["action"] == "Ignore" and rules[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
    [container] = job["template"]["spec"]["containers"]
    mapped = {}
    for rule in rules[1:]:
        assert rule["onExitCodes"]["containerName"] == container["name"]
        mapped |= dict.fromkeys(rule["onExitCodes"]["values"], rule["action"])
    for final in (errors.UsageError, errors.WeightsError, errors.OutputNotWritable):
        assert mapped[final.exit_code] == "FailJob"
    assert mapped[3] in ("FailJob", "FailIndex"), "recorded as failed: another pass would not do them again"
    for passing in (errors.OutputLocked, errors.DeviceMissing, errors.NotEnding):
        assert mapped.get(passing.exit_code, "Count") == "Count"


def test_parts_take_every_study_once():
    """UIDs end with a digit; each of ten parts selects one, as Kubernetes writes its index into the arguments."""
    [container] = PODS["shards"]["spec"]["containers"]
    pattern = container["args"][container["args"].index("--select") + 1].removeprefix("StudyInstanceUID=")
    parts = [
        re.compile(pattern.replace("$(JOB_COMPLETION_INDEX)", str(n))) for n in range(JOBS["shards"]["completions"])
    ]
    for digit in "0123456789":
        assert sum(bool(part.search(f"1.2.840.{digit}1{digit}")) for part in parts) == 1
    assert "$(JOB_COMPLETION_INDEX)" in container["args"][container["args"].index("--out") + 1]


# Slurm


def test_array_job_scans_its_own_part(tmp_path):
    (tmp_path / "covct").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "covct").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "COVCT_IN": "/a b",
        "COVCT_OUT": "/r",
        "SLURM_ARRAY_TASK_ID": "7",
    }
    ran = subprocess.run([EXAMPLES / "slurm/array.sh"], env=environment, capture_output=True, text=True, check=True)
    line = ran.stdout.splitlines()
    assert line[:6] == ["scan", "/a b", "--out", "/r/part-7", "--select", "StudyInstanceUID=7$"] and is_understood(line)
    [array] = re.findall(r"^#SBATCH --array=0-(\d+)", (EXAMPLES / "slurm/array.sh").read_text(), re.M)
    assert array == "9", "a part for each digit"
    alone = subprocess.run([EXAMPLES / "slurm/array.sh"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert alone.returncode != 0 and "COVCT_IN" in alone.stderr


def test_dask_script_hands_the_scheduler_to_a_scan(monkeypatch):
    """dask-jobqueue stands in for Slurm."""
    asked, run = {}, []

    class Cluster:
        scheduler_address = "tcp://10.0.0.1:8786"

        def __init__(self, **settings):
            asked.update(settings)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            asked["closed"] = True

        def scale(self, jobs):
            asked["jobs"] = jobs

    monkeypatch.setitem(sys.modules, "dask_jobqueue", types.SimpleNamespace(SLURMCluster=Cluster))
    monkeypatch.setattr(sys, "argv", ["dask_scan.py", "/in", "/out", "--jobs", "8", "--gpu", "--strict"])
    monkeypatch.setattr(subprocess, "run", lambda command: run.append(command) or types.SimpleNamespace(returncode=3))
    scope = {"__name__": "dask_scan"}
    exec(compile(ast.parse((EXAMPLES / "slurm/dask_scan.py").read_text()), "dask_scan.py", "exec"), scope)
    assert scope["main"]() == 3
    assert asked["jobs"] == 8 and asked["job_extra_directives"] == ["--gres=gpu:1"] and asked["closed"]
    assert asked["worker_extra_args"] == ["--resources", "GPU=1"]
    [[_, *line]] = run
    assert line[:5] == ["scan", "/in", "--out", "/out", "--strict"]
    assert line[5:] == ["--scheduler", "tcp://10.0.0.1:8786", "--device", "gpu"]


# systemd


@pytest.mark.parametrize("unit", sorted((EXAMPLES / "systemd").glob("*.*er*")), ids=lambda path: path.name)
def test_unit_is_understood_by_systemd(unit, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    for other in (EXAMPLES / "systemd").iterdir():  # a timer needs its service; covct is not installed there
        (tmp_path / other.name).write_text(other.read_text().replace("/usr/local/bin/covct", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit.name], capture_output=True, text=True, timeout=60
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_watch_is_closed_in_and_started_again_where_that_helps():
    text = (EXAMPLES / "systemd/covct-watch.service").read_text()
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
    assert settings["ProtectSystem"] == "strict" and settings["CapabilityBoundingSet"] == ""
    assert settings["PrivateNetwork"] == settings["NoNewPrivileges"] == "yes"
    program, *line = settings["ExecStart"].split()
    assert program == "/usr/local/bin/covct" and is_understood(line)
    assert settings["ReadWritePaths"] == line[line.index("--out") + 1] and settings["ReadOnlyPaths"] == line[1]
    hopeless = {int(code) for code in settings["RestartPreventExitStatus"].split()}
    assert hopeless == {
        3,
        *(one.exit_code for one in (errors.UsageError, errors.WeightsError, errors.OutputNotWritable)),
    }


# Compose


@pytest.fixture(scope="module")
def night():
    return yaml.safe_load((EXAMPLES / "compose-night/compose.yaml").read_text())


def test_services_of_the_night_are_closed_in(night):
    for service in night["services"].values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and not service.get("privileged")
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert re.fullmatch(r"\$\{UID:\?[^}]+\}:\$\{GID:\?[^}]+\}", service["user"])
    assert night["networks"]["inside"]["internal"] is True
    assert night["services"]["node"]["networks"] == ["inside"] and "ports" not in night["services"]["node"]
    assert all(port.startswith("${DICOM_ADDRESS:-127.0.0.1}:") for port in night["services"]["archive"]["ports"])


def test_archive_and_node_of_the_night_know_one_another(night):
    config = json.loads((EXAMPLES / "compose-night/orthanc.json").read_text())
    line = night["services"]["node"]["command"]
    title, _, place = line[line.index("--to") + 1].partition("@")
    assert title == config["DicomAet"] and place == f"archive:{config['DicomPort']}"
    assert config["DicomModalities"]["covct"][:2] == ["COVCT", "node"]
    [subnet] = night["networks"]["inside"]["ipam"]["config"]
    assert line[line.index("--allow") + 1] == f"{title}@{subnet['subnet']}"
    files = {mount["target"] for mount in night["services"]["archive"]["volumes"]}
    assert set(config["LuaScripts"]) <= files and night["services"]["archive"]["command"][0] in files
    assert (
        ROOT / "examples/compose-night" / night["services"]["node"]["build"]["context"] / "docker/Dockerfile"
    ).exists()


def test_node_of_the_night_is_a_command(night):
    assert is_understood(night["services"]["node"]["command"])
    assert is_understood(night["services"]["node"]["healthcheck"]["test"][2:])


@pytest.mark.slow
@pytest.mark.orthanc
def test_archive_of_the_night_forwards_ct_and_keeps_what_covct_sends(phantom_series, tmp_path):
    """Orthanc with the example's own settings and script; dcmtk stands for the node."""
    if not shutil.which("Orthanc") or not PLUGIN.exists() or not shutil.which("storescp"):
        pytest.skip("Orthanc or dcmtk is not installed (apt-get install orthanc dcmtk)")
    dicom, node, http = free_ports(3)
    config = json.loads((EXAMPLES / "compose-night/orthanc.json").read_text())
    config |= {name: str(tmp_path) for name in ("StorageDirectory", "IndexDirectory", "TemporaryDirectory")}
    config |= {"DicomPort": dicom, "StableAge": 1, "LuaScripts": [str(EXAMPLES / "compose-night/route.lua")]}
    config |= {"HttpServerEnabled": True, "HttpPort": http, "DicomModalities": {"covct": ["COVCT", "127.0.0.1", node]}}
    (tmp_path / "orthanc.json").write_text(json.dumps(config))
    received = tmp_path / "received"
    received.mkdir()
    tools = [["Orthanc", tmp_path / "orthanc.json"], ["storescp", "-od", received, str(node)]]
    running = [subprocess.Popen(tool, preexec_fn=die_with_parent, stderr=subprocess.DEVNULL) for tool in tools]
    try:
        archive = Orthanc(http, dicom)
        until(lambda: archive.listed("/series") == [])
        slices = sorted(phantom_series.glob("*.dcm"))[:2]
        send = ["dcmsend", "--call", "ARCHIVE", "127.0.0.1", str(dicom)]
        subprocess.run([*send, "--aetitle", "MODALITY", slices[0]], check=True, timeout=60)
        until(lambda: len(list(received.iterdir())) == 1)
        change_series(slices[1], tmp_path / "own.dcm")
        subprocess.run([*send, "--aetitle", "COVCT", tmp_path / "own.dcm"], check=True, timeout=60)
        until(lambda: len(archive.listed("/series")) == 2)
        time.sleep(4)  # longer than a series takes to be stable
        assert len(list(received.iterdir())) == 1, "what covct sends comes back to it"
    finally:
        for process in running:
            process.kill()
            process.wait()


def until(reached):
    """Ask until it is so, or until somebody who waits would have given up."""
    last = time.monotonic() + 60
    while time.monotonic() < last:
        try:
            if reached():
                return
        except (OSError, AssertionError):
            pass
        time.sleep(0.2)
    raise AssertionError("not reached within a minute")


def change_series(path: Path, target: Path) -> None:
    import pydicom

    dataset = pydicom.dcmread(path)
    dataset.SeriesInstanceUID += ".9"
    dataset.save_as(target)
