"""covct as a process of its own that misbehaves, seen from outside."""

from __future__ import annotations

import json
from pathlib import Path

from covct.disk.outcome import read_outcome
from covct.unattended import supervisor

VICTIM = "1.2.2/1.2.2.1"


def ended(process):
    """Exit code, the events by folder, and under "finished" the last counts."""
    stdout, stderr = process.communicate(timeout=60)
    events = [json.loads(line) for line in stdout.splitlines()]
    told = {e["folder"]: (e["event"], e.get("slug")) for e in events if e["event"] in supervisor.OUTCOMES}
    return process.returncode, told, next((e for e in reversed(events) if e["event"] == "finished"), {})


def until_at_work(process, folder=VICTIM, step="lungs"):
    for line in process.stdout:
        event = json.loads(line)
        if event.get("folder") == folder and event.get("step") == step:
            return
    raise AssertionError(process.stderr.read())


def child_of(process):
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def outcomes(out):
    return {f"{p.parent.parent.name}/{p.parent.name}": read_outcome(p.parent) for p in out.glob("*/*/outcome.json")}
