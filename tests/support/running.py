"""covct as a person or a pipeline runs it, in this process and in one of its own; and the programs that judge it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from covct import cli
from support.checkout import ROOT


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "covct", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
    )  # fmt: skip


def invoke(*arguments):
    """Exit code, stdout and stderr of `covct ARGUMENTS`, run in this process."""
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def tool(name: str) -> str:
    """A validator on the path or beside this interpreter."""
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    if not found:
        pytest.skip(f"{name} is not installed (pip install covct[dev])")
    return found


def change_json(path: Path, **changes) -> None:
    """Other values in some fields of a document, valid or not."""
    path.write_text(json.dumps({**read_json(path), **changes}))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())
