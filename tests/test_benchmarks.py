"""The scripts that figures come from start: a module that moved shall not be found out when a figure is wanted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), *(ROOT / "tests" / name for name in ("fuzz.py", "soak.py"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_script_starts(script):
    run = subprocess.run(
        [sys.executable, script, "--help"],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "usage:" in run.stdout
