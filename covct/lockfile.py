"""A lock of one file, for file systems that offer no `flock` (some NFS and SMB mounts).

The file is made with O_EXCL, which NFS (since version 3) and SMB keep atomic, and says who holds it: host, process,
boot. Whoever died cannot remove it, so it can be stale. That is seen in two ways, neither of which needs clocks that
agree: on the same host since the same boot, by the process being gone; from elsewhere, by the heartbeat in the file
standing still for `STALE_S` of the onlooker's own time. A stale file is taken over by renaming it away.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from covct.errors import OutputLocked

log = logging.getLogger("covct")
HEARTBEAT_S = 10.0
STALE_S = 90.0  # long calls into libraries can hold up the heartbeat for some ten seconds
SETTLE_S = 1.0  # two that took over the same stale file see by then whose file stands


def me() -> dict[str, Any]:
    """Who this process is, on whatever host and in whatever container."""
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "process_namespace": _link("/proc/self/ns/pid"),
        "process_start": _process_start(os.getpid()),
    }


def described(owner: dict[str, Any]) -> str:
    return f"process {owner.get('process', 'unknown')} on {owner.get('host', 'an unknown host')}"


@contextmanager
def held(path: Path, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold the lock file.

    Raises
    ------
    OutputLocked
        Another process holds it. Said at once where the holder runs on this host, else once its heart beat.
    OSError
        The file cannot be written.
    """
    mine = {**me(), "beat": 0}
    while not _created(path, mine):
        owner = _owner(path)
        if owner is None:
            continue  # given back meanwhile
        if not _is_stale(path, owner, sleep):
            raise OutputLocked(f"{path.parent.parent}: another covct writes here ({described(owner)})")
        _take_away(path, owner)
    sleep(SETTLE_S)
    if not _is_mine(path, mine):
        raise OutputLocked(f"{path.parent.parent}: another covct took the output tree at the same moment")
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, mine, ended), name="covct lock", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        if _is_mine(path, mine):
            path.unlink(missing_ok=True)


def _created(path: Path, content: dict[str, Any]) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(descriptor, "w") as file:
        json.dump(content, file)
    return True


def _owner(path: Path) -> dict[str, Any] | None:
    """What the lock file says; empty where it makes no sense (its holder died while writing it), None without one."""
    try:
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_stale(path: Path, owner: dict[str, Any], sleep: Callable[[float], None]) -> bool:
    here = me()
    if owner.get("host") == here["host"] and owner.get("boot") and owner["boot"] != here["boot"]:
        return True  # the host was restarted since
    if all(owner.get(name) == here[name] for name in ("boot", "process_namespace")) and here["boot"]:
        return _process_start(int(owner.get("process", 0))) != owner.get("process_start")
    waited = 0.0
    while waited < STALE_S:
        sleep(HEARTBEAT_S / 2)
        waited += HEARTBEAT_S / 2
        if _owner(path) != owner:
            return False  # it lives, or another took over, or it was given back
    return True


def _take_away(path: Path, stale: dict[str, Any]) -> None:
    """Rename a stale file away. Where another was quicker, what we hold is its new file: it goes back."""
    aside = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _owner(aside) != stale:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _is_mine(path: Path, mine: dict[str, Any]) -> bool:
    try:
        owner = _owner(path) or {}
    except OSError:
        return False
    return all(owner.get(name) == value for name, value in mine.items() if name != "beat")


def _beat(path: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    """Say every HEARTBEAT_S that the holder lives. Where the lock was lost, stop this process before it harms."""
    while not ended.wait(HEARTBEAT_S):
        mine["beat"] += 1
        try:
            if not _is_mine(path, mine):
                raise FileNotFoundError
            temporary = path.with_name(f"{path.name}.beat")
            temporary.write_text(json.dumps(mine))
            os.replace(temporary, path)
        except FileNotFoundError:
            log.error("the lock of the output tree was taken by another covct: stopping")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        except OSError as error:
            log.warning("the lock's heartbeat cannot be written: %s", error.strerror)


def _process_start(process: int) -> str:
    """When a process began, in the kernel's ticks since boot; empty where there is no such process."""
    fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()  # the name before may hold blanks
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""  # a zombie holds nothing


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
