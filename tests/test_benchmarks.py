"""The scripts that figures come from start: a module that moved shall not be found out when a figure is wanted."""

import json
import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), *(ROOT / "tests" / name for name in ("fuzz.py", "soak.py"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_script_starts(script, monkeypatch, capsys):
    """In this process: a new one takes four seconds for keras alone."""
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_zoo_goes_on_where_its_budget_ended_as_if_it_had_never_stopped(tmp_path, monkeypatch, capsys):
    pytest.importorskip("keras")
    from covct.architectures import ARCHITECTURES
    from covct.training.samples import plans
    from support import tiny_training

    monkeypatch.setitem(ARCHITECTURES, "tiny", tiny_training.tiny)
    monkeypatch.setitem(plans.PLANS, "lungs", tiny_training.tiny_plan)
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    data = tiny_training.data_folder(tmp_path)

    def zoo(out, budget):
        arguments = [data, "-o", tmp_path / out, "--only", "tiny", "--tasks", "lungs", "--folds", 4, "--epoch", 16]
        monkeypatch.setattr(sys, "argv", ["zoo.py", *map(str, arguments), "--budget", str(budget)])
        runpy.run_path(str(ROOT / "benchmarks" / "zoo.py"), run_name="__main__")
        assert "| `tiny` |" in capsys.readouterr().out
        return json.loads((tmp_path / out / "zoo.json").read_text())["tiny"]["lungs"]

    first = zoo("paused", 32)
    assert (first["samples"], len(first["curve"]), first["ended"]) == (32, 2, False)
    assert "not converged" in (tmp_path / "paused" / "zoo.md").read_text()
    went_on, whole = zoo("paused", 64), zoo("whole", 64)
    assert went_on["curve"][:2] == first["curve"]
    assert went_on["curve"] == pytest.approx(whole["curve"], abs=1e-4)
    assert zoo("paused", 64) == went_on, "what has its budget is not trained again"
    assert (tmp_path / "paused" / "zoo.png").stat().st_size > 1000
