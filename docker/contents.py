"""What an image holds, as a bill of materials (CycloneDX) and as a list of licences: contents.py LOCK FOLDER.

Run in the image's build, by the environment that it tells of, once that is complete. The same packages make the same
bytes: no time, no random number. Hashes are those of the lock, of the files that pip took.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

DPKG = Path("/var/lib/dpkg/status")
DEBIAN_LICENCES = "see /usr/share/doc/PACKAGE/copyright"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: Path) -> dict[str, list[str]]:
    """The sha256 of each package's files, by its name."""
    found: dict[str, list[str]] = {}
    for line in lock.read_text().replace("\\\n", "").splitlines():
        if line and not line.startswith("#"):
            found[canonical(line.split("==")[0])] = re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
    return found


def licence_of(one: Distribution) -> str:
    """As its metadata have it: an expression, else what the classifiers say, else the first line of free text."""
    about = one.metadata
    if expression := about.get("License-Expression"):
        return expression
    classified = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    told = (about.get("License") or "").strip().splitlines()
    return "; ".join(classified) or (told[0] if told else "not told; see its files")


def python_components(hashes: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    for one in sorted(distributions(), key=lambda one: canonical(one.metadata["Name"])):
        name = canonical(one.metadata["Name"])
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{one.version}",
            "name": name,
            "version": one.version,
            "purl": f"pkg:pypi/{name}@{one.version}",
            "licenses": [{"license": {"name": licence_of(one)}}],
        }
        if name in hashes:  # a file of several, by the platform: which one pip took is not noted anywhere
            component["externalReferences"] = [
                {"type": "distribution", "url": component["purl"], "hashes": [{"alg": "SHA-256", "content": digest}]}
                for digest in hashes[name]
            ]
        yield component


def debian_components(status: Path) -> Iterator[dict[str, Any]]:
    """The base's packages; none where it is no Debian."""
    entries = status.read_text(errors="replace").split("\n\n") if status.exists() else []
    for entry in sorted(entries):
        told = dict(re.findall(r"^(Package|Version|Status): (.+)$", entry, re.M))
        if told.get("Status", "").endswith(" installed"):
            purl = f"pkg:deb/debian/{told['Package']}@{told['Version'].replace('+', '%2B').replace(':', '%3A')}"
            yield {
                "type": "library",
                "bom-ref": purl,
                "name": told["Package"],
                "version": told["Version"],
                "purl": purl,
                "licenses": [{"license": {"name": DEBIAN_LICENCES.replace("PACKAGE", told["Package"])}}],
            }


def bill(components: list[dict[str, Any]]) -> dict[str, Any]:
    covct = next(one for one in components if one["name"] == "covct")
    rest = [one for one in components if one is not covct]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": covct | {"type": "application"}},
        "components": rest,
    }


def table(components: list[dict[str, Any]]) -> str:
    """A line a package: name, version, licence."""
    rows = [(one["name"], one["version"], one["licenses"][0]["license"]["name"]) for one in components]
    return "".join(f"{name:32} {version:24} {licence}\n" for name, version, licence in rows)


def main(lock: Path, folder: Path, status: Path = DPKG) -> None:
    components = [*python_components(locked(lock)), *debian_components(status)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "covct.cdx.json").write_text(json.dumps(bill(components), indent=1) + "\n")
    (folder / "LICENCES.txt").write_text(table(components))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
