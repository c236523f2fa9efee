"""The architecture, read from the code: who imports whom, and what is heavy."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import covct

PACKAGE = Path(covct.__file__).parent
# A module may import from its own rank and below.
RANKS = [
    {
        "errors",
        "quiet",
        "visible",
        "tree_format",
        "terms",
        "outputs",
        "defects",
        "quote",
        "logs",
        "heartbeat",
        "metrics",
        "refusals",
    }
    | {"labels", "components", "memory", "devices"}
    | {"__init__", "dicom.__init__", "dicom.orientation", "dicom.syntaxes", "dicom.parallel"},
    {"stop", "lockfile", "training.__init__", "training.settings", "training.schedules", "training.progress"}
    | {"training.average", "training.batches", "training.events", "training.optimizers"}
    | {"evaluation.__init__", "evaluation.scores", "evaluation.surface", "evaluation.bootstrap"}
    | {"evaluation.agreement", "evaluation.calibration", "evaluation.figures"},
    {"preprocess", "crops", "resample", "training.domains"}
    | {
        "voxel_layout",
        "sources",
        "cards",
        "context",
        "volume",
        "state",
        "dicom.evidence",
        "dicom.codestream",
        "dicom.read",
        "dicom.patient",
        "dicom.valid",
        "dicom.inherited",
    },
    {"metaimage", "nrrd", "volume_header"}
    | {"dicom.header", "dicom.pixels", "dicom.seg", "dicom.sr", "dicom.key_object", "dicom.seg_frames"},
    {"unread", "split", "mixture", "scattered", "weights_file", "supervisor", "runs", "troubles"}
    | {"image_type", "foreign", "rounding"},
    {"discover", "networks", "postprocess", "overlay", "results", "training.augment", "training.presets"}
    | {"dicom.capture", "dicom.ct_series", "dicom.given_uids", "dicom.seg_masks"},
    {"grid"},
    {
        "choice",
        "quality",
        "gate_geometry",
        "gate_rules",
        "gate_voxels",
        "nifti",
        "older_trees",
        "whose",
        "burden",
        "uncertainty",
        "phantom",
        "page",
        "training.losses",
    }
    | {"volume_file", "dicom.load", "dicom.check", "architectures.blocks"},
    {"architectures.unet", "architectures.unet3d", "architectures.deeplab", "architectures.segnet"}
    | {"architectures.slice_classifier"},
    {"architectures.__init__", "training.cases"},
    {"training.dicom_cases", "training.learned"},
    {"training.layouts", "training.read_case", "training.screen"},
    {"status", "running", "window", "report", "training.dataset", "segment", "phantom_dicom", "summary"}
    | {"convert", "index"}
    | {"training.stacks", "training.before_after", "training.empty_slices"},
    {"training.restoration", "training.restore", "training.views", "training.partial_lungs"}
    | {"training.reading", "pipeline", "verify", "doctor", "inbox", "moving", "plan"}
    | {"training.folds", "training.checkpoints", "training.fingerprint", "training.histories"}
    | {"training.cross_validation", "evaluation.masks", "evaluation.cases"},
    {"training.inputs", "training.neighbours", "training.volumes", "training.classes"}
    | {"training.prepare", "training.threshold", "training.explore", "writers", "evaluation.judge"}
    | {"evaluation.judges"},
    {"training.plans", "training.build", "evaluation.pooling", "evaluation.page"},
    {"training.not_a_number", "training.finish", "training.sheet", "one_series"},
    {"training.loop", "training.explore_page", "batch", "evaluation.run"},
    {"training.find_lr"},
    {
        "commands.__init__",
        "commands.console",
        "commands.exit_codes",
        "commands.listeners",
        "commands.evaluate",
        "commands.explore",
        "commands.phantom",
        "commands.restore",
        "commands.train",
    },
    {"commands.options", "commands.told"},
    {"commands.convert", "commands.results", "commands.scan"},
    {"commands.machine"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
KERAS_ONLY = {"training.losses", "training.loop", "segment"} | {n for n in RANK if n.startswith("architectures.")}
KERAS_ONLY |= {"training.optimizers", "training.build", "training.finish"}


@cache
def modules():
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in PACKAGE.rglob("*.py")
    }


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "covct":
                yield from (f"covct.{alias.name}" for alias in node.names)


def test_every_module_has_its_rank():
    assert set(modules()) == set(RANK)


@pytest.mark.parametrize("name", sorted(RANK))
def test_imports_point_downwards(name):
    for imported in imports(modules()[name]):
        other = imported.removeprefix("covct.")
        if imported.startswith("covct.") and other in RANK:
            assert RANK[other] <= RANK[name], f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(RANK))
def test_keras_and_rich_stay_in_their_rooms(name):
    found = {imported.split(".")[0] for imported in imports(modules()[name])}
    assert "tensorflow" not in found, "keras.ops only: training also runs on jax"
    assert name in KERAS_ONLY or "keras" not in found
    assert name == "cli" or name.startswith("commands.") or not found & {"rich", "typer"}


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        (["--help"], {"keras", "tensorflow", "highdicom", "pydicom", "SimpleITK", "nibabel", "cv2"}),
        (["scan", "--help"], {"keras", "tensorflow", "highdicom", "SimpleITK", "nibabel"}),
        (["status", "."], {"keras", "tensorflow", "highdicom", "pydicom", "SimpleITK", "nibabel", "cv2"}),
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
