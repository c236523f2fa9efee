"""Mercure's contract: a folder of DICOM files with task.json in, flat DICOM files with result.json out.

https://mercure-imaging.org/docs/modules.html. A module is started without arguments; only its exit code tells
Mercure whether it succeeded. Mercure sets the variables of Holoscan too, so it is recognised first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE
from covct.disk.durable import replace_json
from covct.errors import UsageError
from covct.platforms.assignment import Assignment, Platform, Results, Wishes
from covct.platforms.deliver import as_received, lay_out, sentences, told

IN, OUT = "MERCURE_IN_DIR", "MERCURE_OUT_DIR"
TASK, RESULT = "task.json", "result.json"
NOTIFY_FROM, ROUTE_TO, ROUTE_FROM = OWN = ("notify-from", "route-to", "route-from")
WHERE = f"{TASK} (process > settings)"


def assignments(environment: Mapping[str, str], wishes: Wishes) -> Iterable[Assignment]:
    """The one that the environment names, with the settings of task.json."""
    if not environment.get(OUT):
        raise UsageError(f"{IN} is set and {OUT} is not; Mercure sets both")
    source, out = wishes.path(environment[IN]), wishes.path(environment[OUT])
    given = {name.replace("_", "-"): value for name, value in _settings(source / TASK).items()}
    own = {name: given.pop(name) for name in OWN if name in given}
    _check(own)

    def deliver(results: Results) -> None:
        told_of = told(results, lay_out(results, out, as_received))
        replace_json(out / RESULT, told_of | _notification(results, own) | _routing(results, own))

    yield Assignment(source, out, deliver, given, WHERE, OWN)


def _settings(path: Path) -> dict[str, Any]:
    """process > settings of task.json; none where there is no such file, as where a person tries the module."""
    try:
        task = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {type(error).__name__}; wanted JSON") from error
    process = task.get("process") if isinstance(task, dict) else None
    if isinstance(process, list) and len(process) == 1:
        process = process[0]
    settings = process.get("settings", {}) if isinstance(process, dict) else None
    if not isinstance(settings, dict):
        raise UsageError(f"{path} has no object at process > settings; wanted one step with its settings")
    return settings


def _check(own: Mapping[str, Any]) -> None:
    for name in (NOTIFY_FROM, ROUTE_FROM):
        value = own.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise UsageError(f"{WHERE}: {name}: wanted a percentage from 0 to 100")
    targets = own.get(ROUTE_TO, "")
    if not all(isinstance(one, str) for one in (targets if isinstance(targets, list) else [targets])):
        raise UsageError(f"{WHERE}: {ROUTE_TO}: wanted the name of a target, or a list of names")
    if ROUTE_FROM in own and ROUTE_TO not in own:
        raise UsageError(f"{WHERE}: {ROUTE_FROM} without {ROUTE_TO}; wanted a target to route to")


def _notification(results: Results, own: Mapping[str, Any]) -> dict[str, Any]:
    """What Mercure adds to its notification; it sends one on request only from the share that was asked for."""
    requested = NOTIFY_FROM in own and _reaches(results, own[NOTIFY_FROM])
    text = " ".join((*sentences(results), RESEARCH_USE))
    return {"__mercure_notification": {"text": text, "requested": requested}}


def _routing(results: Results, own: Mapping[str, Any]) -> dict[str, Any]:
    """Other targets than the rule's, where the settings name some and the share is reached."""
    if not own.get(ROUTE_TO) or not _reaches(results, own.get(ROUTE_FROM, 0)):
        return {}
    return {"__mercure_routing": {"target": own[ROUTE_TO]}}


def _reaches(results: Results, percent: float) -> bool:
    return any(entry.infection_percent is not None and entry.infection_percent >= percent for entry in results.done)


MERCURE = Platform("Mercure", IN, lambda environment, wishes: bool(environment.get(IN)), assignments)
