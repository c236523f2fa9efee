"""The audit log: who sent what where, one JSON object a line. No names, patient IDs or dates of patients.

Each line says what an audit message of DICOM says (PS3.15 A.5, the content of IHE's ATNA): event and action, both ends,
outcome, the studies by UID with the number of instances of each SOP class. It is appended and brought to the disk by
one write; the file is opened for each line, so that logrotate may rename it at any moment.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covct import __version__
from covct.dicom.valid import is_uid
from covct.disk.durable import make_folder
from covct.disk.places import PRIVATE
from covct.visible import json_line, visible

NAME = "audit.jsonl"
LONGEST_NAME = 200  # characters of an AE title or address, whatever a peer says
LONGEST_REASON = 500
# Event Outcome Indicator (PS3.15 A.5.1).
SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = 0, 4, 8
# name: Event ID of DCM, its meaning, Event Action Code (create, read, execute)
ACTIVITIES = {
    "started": ("110100", "Application Activity", "E"),
    "stopped": ("110100", "Application Activity", "E"),
    "sent": ("110104", "DICOM Instances Transferred", "R"),
    "received": ("110104", "DICOM Instances Transferred", "C"),
    "queried": ("110112", "Query", "E"),
    "exported": ("110106", "Export", "R"),
    "alert": ("110113", "Security Alert", "E"),
}

log = logging.getLogger("covct")


@dataclass(frozen=True)
class Party:
    """One end of an exchange.

    Attributes
    ----------
    name : str
        AE title, or a service's URL without credentials.
    address : str
        Host and port as far as they are known.
    """

    name: str
    address: str = ""


@dataclass(frozen=True)
class Instance:
    """A DICOM object of an exchange: Study Instance UID and SOP Class UID."""

    study: str
    sop_class: str


@dataclass
class AuditLog:
    """The audit log of an output tree, or one in a place of the operator's.

    A line that cannot be written costs a line in the log of the process, once, and stops nothing: objects that are not
    sent are worse than ones whose sending stands in one log only.
    """

    path: Path
    _told: bool = field(default=False, repr=False)

    def record(
        self,
        activity: str,
        source: Party,
        destination: Party,
        instances: Iterable[Instance] = (),
        outcome: int = SUCCESS,
        reason: str = "",
    ) -> None:
        """Append what happened. `activity` is one of ACTIVITIES; `reason` is a sentence of ours."""
        line = json_line(_entry(activity, source, destination, instances, outcome, reason)) + "\n"
        try:
            _append(self.path, line.encode())
        except OSError as error:
            if not self._told:
                log.error("the audit log cannot be written: %s", error.strerror)
            self._told = True


def audit_log(out: Path, path: Path | None = None) -> AuditLog:
    """The audit log of an output tree, `.covct/audit.jsonl`, or the one at `path`."""
    return AuditLog(path or out / PRIVATE / NAME)


def _entry(
    activity: str, source: Party, destination: Party, instances: Iterable[Instance], outcome: int, reason: str
) -> dict[str, Any]:
    code, meaning, action = ACTIVITIES[activity]
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "activity": activity,
        "event": {"code": code, "scheme": "DCM", "meaning": meaning},
        "action": action,
        "outcome": outcome,
        **({"reason": visible(reason[:LONGEST_REASON])} if reason else {}),
        "source": _party(source),
        "destination": _party(destination),
        "by": {"program": f"covct {__version__}", "host": socket.gethostname(), "process": os.getpid()},
        "studies": _studies(instances),
    }


def _party(party: Party) -> dict[str, str]:
    return {"name": visible(party.name[:LONGEST_NAME]), "address": visible(party.address[:LONGEST_NAME])}


def _studies(instances: Iterable[Instance]) -> list[dict[str, Any]]:
    """By study, how many instances of which SOP class. What a header calls a UID and is none, may be anything."""
    counts: dict[str, Counter[str]] = {}
    for one in instances:
        counts.setdefault(_uid(one.study), Counter())[_uid(one.sop_class)] += 1
    return [
        {
            "study_instance_uid": study,
            "sop_classes": [{"uid": uid, "instances": number} for uid, number in sorted(classes.items())],
        }
        for study, classes in sorted(counts.items())
    ]


def _uid(text: str) -> str:
    return text if is_uid(text) else "not a UID"


def _append(path: Path, line: bytes) -> None:
    """Add a line by one write and bring it to the disk; what a crash left of the one before stays on its own line."""
    make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # file systems without locks still append
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if torn else b"") + line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
