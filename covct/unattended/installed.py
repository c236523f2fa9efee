"""Which packages covct declares, and whether they are installed in the versions that it wants."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from covct import __file__ as package_file

if TYPE_CHECKING:
    from packaging.requirements import Requirement

EXTRA = re.compile(r"extra == ['\"]([\w-]+)")


def declared() -> tuple[list[str], dict[str, list[str]]]:
    """Requirements, and those of each extra: of a source checkout, else of the installed package."""
    project = Path(package_file).parent.parent / "pyproject.toml"
    if project.is_file():
        fields = tomllib.loads(project.read_text())["project"]
        several = fields["optional-dependencies"]
        return _here(fields["dependencies"]), {name: _here(lines) for name, lines in several.items()}
    lines = importlib.metadata.requires("covct") or []
    names = dict.fromkeys(found[1] for line in lines if (found := EXTRA.search(line)))
    base = [line for line in lines if not EXTRA.search(line)]
    return _here(base), {name: _here((line for line in lines if _is_of(line, name)), name) for name in names}


def _is_of(line: str, extra: str) -> bool:
    found = EXTRA.search(line)
    return found is not None and found[1] == extra


def _here(lines: Iterable[str], extra: str = "") -> list[str]:
    """Requirements that hold on this platform and Python, without the markers that say so."""
    from packaging.requirements import Requirement

    found = [Requirement(line) for line in lines]
    kept = [one for one in found if one.marker is None or one.marker.evaluate({"extra": extra})]
    for one in kept:
        one.marker = None
    return [str(one) for one in kept]


def version_problem(requirement: Requirement) -> str:
    """What is wrong with the installed version of a requirement; empty where nothing is."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    return "" if requirement.specifier.contains(version, prereleases=True) else f"{requirement} wanted, got {version}"
