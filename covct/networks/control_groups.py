"""The control groups that bound what this process may use, as a container is started with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def control_groups(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Folders of this process's control groups and of all above them; version 2, and a controller's own of version 1.

    Nothing where there are none.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups if not controllers else cgroups / controller
        if controllers and controller not in controllers.split(","):
            continue
        group = root / path.lstrip("/")
        # In a container the path may be that on the host, and the group's files lie at the root.
        yield from dict.fromkeys([group, *(p for p in group.parents if p.is_relative_to(root)), root])
