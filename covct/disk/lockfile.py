"""A lock of one file beside `flock`, for whoever `flock` does not keep out.

That is, file systems without it (some NFS and SMB mounts), and hosts that mount one tree with locks of their own (NFS
`nolock`). The file is made with O_EXCL, which NFS (since version 3) and SMB keep atomic, and says who holds it: host,
process, boot, whether it holds the `flock` too. Whoever died cannot remove it, so it can be stale. That is seen in
three ways, none of which needs clocks that agree: by a `flock` of this kernel, which its holder would still have; on
the same host since the same boot, by the process being gone; from elsewhere, by the heartbeat in the file standing
still for `STALE_S` of the onlooker's own time. A stale file is taken over by renaming it away.
"""

from __future__ import annotations

import errno
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
from uuid import uuid4

from covct.errors import OutputLocked, Stopped

log = logging.getLogger("covct")
HEARTBEAT_S = 10.0
STALE_S = 90.0  # long calls into libraries can hold up the heartbeat for some ten seconds
BYTES = 1024  # of the file, whatever stands in it
TAKEN = "{}: another covct has taken over the output tree and writes there now: stopping"
SETTLE_S = 1.0  # two that took over the same stale file see by then whose file stands

_holding: dict[Path, dict[str, Any]] = {}  # this process's own


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
def held(path: Path, flocked: bool = False, sleep: Callable[[float], None] | None = None) -> Iterator[None]:
    """Hold the lock file.

    Parameters
    ----------
    flocked : bool
        Whether this process holds the `flock` beside it, too.

    Raises
    ------
    OutputLocked
        Another process holds it. Said at once where the holder runs on this host, else once its heart beat. Also raised
        in the place of the stop that ends the work when another process has taken the file.
    OSError
        The file cannot be written.
    """
    sleep = sleep or time.sleep
    mine = {**me(), "flock": flocked, "token": uuid4().hex, "beat": 0}
    descriptor = _taken(path, mine, sleep)
    lost, ended = threading.Event(), threading.Event()
    heart = threading.Thread(target=_beat, args=(path, descriptor, mine, ended, lost), name="covct lock", daemon=True)
    heart.start()
    _holding[path] = mine
    try:
        yield
    except Stopped as stop:
        if lost.is_set():
            raise OutputLocked(TAKEN.format(path.parent.parent)) from stop
        raise
    finally:
        _holding.pop(path, None)
        ended.set()
        heart.join()
        os.close(descriptor)
        with suppress(OSError):  # whoever comes next sees that this process is gone
            if _is_mine(path, mine):
                path.unlink(missing_ok=True)


def is_held(path: Path) -> bool | None:
    """Whether the process that made this file lives; None where that cannot be told from here at once."""
    try:
        owner, here = _owner(path), me()
        if owner is None:
            return False
        if owner.get("host") == here["host"] and owner.get("boot") and owner["boot"] != here["boot"]:
            return False
        if all(owner.get(name) == here[name] for name in ("boot", "process_namespace")) and here["boot"]:
            return _process_start(int(owner.get("process", 0))) == owner.get("process_start")
        return False if _flock_tells(owner, here) else None
    except (OSError, ValueError, TypeError):
        return None


def holder(path: Path) -> str:
    """Who made this file; empty without one."""
    try:
        owner = _owner(path)
    except OSError:
        return ""
    return described(owner) if owner else ""


def check(path: Path) -> None:
    """Raise OutputLocked where this process held the lock file and another has taken it: before what must not be done
    by two."""
    mine = _holding.get(path)
    if mine and _is_mine(path, mine) is False:
        raise OutputLocked(TAKEN.format(path.parent.parent))


def _taken(path: Path, mine: dict[str, Any], sleep: Callable[[float], None]) -> int:
    """A descriptor of the lock file, which is this process's now."""
    here = True  # nobody but processes of this kernel, whom `flock` keeps out, can be taking it over as well
    while (descriptor := _created(path, mine)) is None:
        owner = _owner(path)
        if owner is None:
            continue  # given back meanwhile
        here = here and mine["flock"] and _flock_tells(owner, mine)
        if not _is_stale(path, owner, mine, sleep):
            raise OutputLocked(f"{path.parent.parent}: another covct is writing here ({described(owner)})")
        _take_away(path, owner)
    if not (mine["flock"] and here):
        sleep(SETTLE_S)
    try:
        if (_owner(path) or {}).get("token") != mine["token"]:
            raise OutputLocked(f"{path.parent.parent}: another covct took the output tree at the same time")
    except (OSError, OutputLocked):
        os.close(descriptor)
        raise
    return descriptor


def _created(path: Path, content: dict[str, Any]) -> int | None:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return None
    try:
        _write(descriptor, content)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _write(descriptor: int, content: dict[str, Any]) -> None:
    """In place: a full disk takes a heartbeat, and one that lost its file writes into no other's."""
    text = json.dumps(content).encode().ljust(BYTES)
    if os.pwrite(descriptor, text, 0) != len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)  # a network file system shows it to others only then


def _owner(path: Path) -> dict[str, Any] | None:
    """What the lock file says; empty where it makes no sense (its holder died while writing it), None without one."""
    try:
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _flock_tells(owner: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether a `flock` would have kept this process out, were the owner alive: both ask one kernel."""
    return bool(owner.get("flock") and owner.get("boot") and owner["boot"] == mine["boot"])


def _is_stale(path: Path, owner: dict[str, Any], mine: dict[str, Any], sleep: Callable[[float], None]) -> bool:
    here = me()
    if owner.get("host") == here["host"] and owner.get("boot") and owner["boot"] != here["boot"]:
        return True  # the host was restarted since
    if all(owner.get(name) == here[name] for name in ("boot", "process_namespace")) and here["boot"]:
        if owner.get("process") == here["process"]:  # ours, or left by one that had our number
            return not any(own["token"] == owner.get("token") for own in _holding.values())
        return _process_start(int(owner.get("process", 0))) != owner.get("process_start")
    if mine["flock"] and _flock_tells(owner, mine):
        return True
    patience = STALE_S if owner else HEARTBEAT_S / 2  # nothing in it: whoever made it died, or writes this moment
    if owner:
        log.warning("the output tree was held by %s: waiting to see whether it is still running", described(owner))
    waited = 0.0
    while waited < patience:
        sleep(HEARTBEAT_S / 2)
        waited += HEARTBEAT_S / 2
        if _owner(path) != owner:
            return False  # it lives, or another took over, or it was given back
    return True


def _take_away(path: Path, stale: dict[str, Any]) -> None:
    """Rename a stale file away. Where another was quicker, what we hold is its new file: it goes back."""
    aside = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _owner(aside) != stale:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _is_mine(path: Path, mine: dict[str, Any]) -> bool | None:
    """Whether this process made the lock file; None where that cannot be told: it is missing, empty or unreadable."""
    try:
        owner = _owner(path)
    except OSError:
        return None
    return owner.get("token") == mine["token"] if owner else None


def _beat(path: Path, descriptor: int, mine: dict[str, Any], ended: threading.Event, lost: threading.Event) -> None:
    """Say every HEARTBEAT_S that the holder lives. Where the lock was lost, stop this process before it harms."""
    while not ended.wait(HEARTBEAT_S):
        mine["beat"] += 1
        try:
            _make_again(path, descriptor, mine)
            if _is_mine(path, mine) is False:  # a read that fails, of a network file system, does not say so
                lost.set()
                log.error(TAKEN.format(path.parent.parent))
                os.kill(os.getpid(), signal.SIGTERM)
                return
            _write(descriptor, mine)
        except OSError as error:
            log.warning("the lock's heartbeat cannot be written: %s", error.strerror)


def _make_again(path: Path, descriptor: int, mine: dict[str, Any]) -> None:
    """Where somebody removed the lock file: another under the same descriptor, unless another's has come meanwhile."""
    try:
        made = _created(path, mine) if _owner(path) is None else None
    except OSError as error:
        log.warning("the lock file can neither be read nor made again: %s", error.strerror)
        return
    if made is not None:
        os.dup2(made, descriptor, inheritable=False)
        os.close(made)


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
