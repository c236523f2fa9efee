"""The house, read from the code: rooms that import downwards only, and what is heavy."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import covct
from support.checkout import ROOT

PACKAGE = Path(covct.__file__).parent
# From the ground up. A room imports from the floors below; rooms of one floor from each other, but never in a circle.
FLOORS = [
    {"errors", "terms", "outputs", "version", "visible", "html"},
    {"disk", "voxels", "architectures", "recompute"},
    {"dicom", "networks"},
    {"intake", "phantom"},
    {"pipeline", "data"},
    {"results", "training", "evaluation"},
    {"unattended", "viewer"},
    {"exchange", "platforms", "workers"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FOR_WRITING = {"jinja2", "prometheus_client", "reportlab", "tensorboardX"}
KERAS = {"architectures", "training", "networks.segment", "networks.to_openvino"}


@cache
def modules():
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "__init__.py"
    }


def imports(tree):
    """Dotted names, with what is taken from them: some of it is modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_of(tree):
    named = (imported.split(".")[1] for imported in imports(tree) if imported.startswith("covct."))
    return {room for room in named if room in FLOOR}  # the rest are names of covct itself


def test_every_room_has_its_floor():
    assert {name.split(".")[0] for name in modules()} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_downwards(name):
    room = name.split(".")[0]
    for other in rooms_of(modules()[name]) - {room}:
        assert FLOOR[other] <= FLOOR[room], f"{name} imports from {other}"


def test_no_rooms_and_no_modules_import_in_a_circle():
    below = {room: set() for room in FLOOR}
    for name, tree in modules().items():
        below[name.split(".")[0]] |= rooms_of(tree) - {name.split(".")[0]}
    TopologicalSorter(below).prepare()
    known = {name.removesuffix(".__init__") for name in modules()}
    of_module = {
        name.removesuffix(".__init__"): {
            part
            for imported in imports(tree)
            if imported.startswith("covct.")
            for part in (imported.removeprefix("covct."), imported.removeprefix("covct.").rpartition(".")[0])
            if part in known and part != name.removesuffix(".__init__")
        }
        for name, tree in modules().items()
    }
    TopologicalSorter(of_module).prepare()


@pytest.mark.parametrize("name", sorted(modules()))
def test_keras_and_rich_stay_in_their_rooms(name):
    found = {imported.split(".")[0] for imported in imports(modules()[name])}
    room = name.split(".")[0]
    assert "tensorflow" not in found, "keras.ops only: training also runs on jax"
    assert "keras" not in found or {name, room} & KERAS
    assert not found & {"rich", "typer"} or room in ("cli", "commands")


def test_what_tests_share_is_in_support():
    """Helpers in `tests/support`, fixtures in conftest: nobody looks for them in another test."""
    borrowed = re.compile(r"^\s*(?:from|import) (?:test_\w+|conftest|tests)\b.*", re.MULTILINE)
    found = {
        path.name: lines
        for path in Path(__file__).parent.rglob("*.py")
        if (lines := borrowed.findall(path.read_text(encoding="utf-8")))
    }
    assert not found, "move it to tests/support"


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("covct", {"cpu", "verify", "workers"}), ("benchmarks", {"cpu", "dev"}), ("tests", {"cpu", "dev"})],
)
def test_what_is_imported_is_declared(folder, extras):
    """What another package brings along may go with that package's next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(requirement for extra in extras for requirement in optional[extra])]
    declared = {canonicalize_name(Requirement(one).name) for one in wanted}
    installed = packages_distributions()
    ours = {"covct", "support", *(path.stem for path in (ROOT / folder).glob("*.py"))}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module in {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} - ours:
            if module not in sys.stdlib_module_names:
                by = {canonicalize_name(name) for name in installed.get(module, [module])}
                assert by & declared, f"{path.name} imports {module}"


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        (
            ["--help"],
            {"keras", "tensorflow", "highdicom", "pydicom", "pydantic", "SimpleITK", "nibabel", "cv2"} | FOR_WRITING,
        ),
        (["--version"], {"keras", "tensorflow", "highdicom", "pydicom", "pydantic", "SimpleITK"} | FOR_WRITING),
        (["scan", "--help"], {"keras", "tensorflow", "highdicom", "pydantic", "SimpleITK", "nibabel"} | FOR_WRITING),
        *(
            (command, {"keras", "tensorflow", "highdicom", "pydicom", "SimpleITK", "nibabel", "cv2"} | FOR_WRITING)
            for command in (["status", "."], ["status", ".", "--list"], ["digest", "."])
        ),
    ],
)
def test_heavy_packages_are_loaded_only_for_work(command, forbidden, tmp_path):
    code = (
        "import sys, json\nfrom covct.cli import app\n"
        f"try:\n    app({command!r})\nexcept SystemExit:\n    pass\n"
        "print('LOADED', json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    loaded = set(ast.literal_eval(run.stdout.rsplit("LOADED", 1)[1].strip()))
    assert not loaded & forbidden


def test_a_rerun_over_finished_series_loads_no_opencv():
    """What a pass imports before there is work, with the choice of a runtime."""
    code = "import sys, covct.unattended.batch, covct.networks.runtimes\nprint(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not set(run.stdout.split()) & {"cv2", "highdicom", "SimpleITK", "keras", "openvino"}


def test_a_list_of_commands_imports_none_of_them():
    code = (
        "import sys\nfrom covct.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted(name for name in sys.modules if name.startswith('covct.commands.')), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = {line.removeprefix("covct.commands.") for line in run.stdout.splitlines() if "covct.commands." in line}
    assert loaded == {"by_name", "console", "exit_codes", "listeners"}
