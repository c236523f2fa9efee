"""What bytes cost, by coverage where atheris is installed. `python tests/fuzz_cost.py --seconds 3600` does more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import covct
import fuzz_cost
from support import bombs

pytestmark = pytest.mark.slow

SECONDS = int(os.environ.get("COVCT_FUZZ_S", "10"))


@pytest.mark.parametrize("how", [[], ["--unguided"]], ids=["by coverage", "at random"])
def test_no_bytes_cost_more_than_they_are_worth(how, tmp_path):
    """A campaign of a few seconds: seconds of computing and MiB in proportion to the input, at every look and stage."""
    if not how:
        pytest.importorskip("atheris", reason="it has no wheel for every Python")
    run = subprocess.run(
        [sys.executable, fuzz_cost.__file__, f"--seconds={SECONDS // 2}", f"--corpus={tmp_path}", *how],
        capture_output=True, text=True, check=False, timeout=SECONDS + 300,
        env={**os.environ, "PYTHONPATH": str(Path(covct.__file__).parents[1])},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert not list(tmp_path.glob("defect-*"))
    assert len(list(tmp_path.iterdir())) > 20


def test_a_costly_input_is_seen_and_kept(tmp_path, monkeypatch):
    """A judge that sees nothing would pass everything."""

    def hungry(contents, folder):
        return len(bytearray(b"x") * (200 << 20))

    def slow(contents, folder):
        return sum(range(150_000_000))

    for stage in (hungry, slow):
        monkeypatch.setattr(fuzz_cost, "STAGES", (stage,))
        with pytest.raises(fuzz_cost.Costly, match=f"{stage.__name__}: .* for 3 bytes"):
            fuzz_cost.Campaign(tmp_path, tmp_path).take(b"abc")
    assert len(list(tmp_path.glob("defect-*"))) == 2


def test_the_corpus_holds_every_kind_of_file_and_bomb(tmp_path):
    made = fuzz_cost.make_corpus(tmp_path)
    assert len(made) > 25
    assert bombs.deflated_items(200) in made
