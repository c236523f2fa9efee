"""Results in the forms that several platforms take: files side by side, files by study, figures as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE, __version__
from covct.disk.durable import link_or_copy, make_folder, replace_json
from covct.platforms.assignment import Results
from covct.results.entries import SHOWN, Entry
from covct.visible import from_to, share

FIGURES = tuple(figure for figure, region in SHOWN if region == "lungs")
TOLD = "results.json"


def lay_out(results: Results, out: Path, name: Callable[[Entry, Path], str]) -> dict[str, list[str]]:
    """Put the files of results below `out`, each under the name that it gets. Returns these by the result's folder."""
    names: dict[str, list[str]] = {}
    for entry in results.done:
        for path in results.files(entry):
            names.setdefault(entry.folder, []).append(name(entry, path))
            put(path, out / names[entry.folder][-1])
    return names


def below_its_study(entry: Entry, path: Path) -> str:
    """In folders of study and series, as an output tree has them."""
    return f"{entry.folder}/{path.name}"


def as_received(entry: Entry, path: Path) -> str:
    """Side by side: a DICOM object under the name that Mercure gives one, its series, "#" and itself.

    Other files keep their names behind the UID of the series that they tell of (and the scan's, where there are several
    under it), or the folder of a volume file.
    """
    if path.suffix == ".dcm":
        return f"{_series_and_instance(path)}.dcm"
    of = entry.folder.rpartition("/")[2] if entry.series_instance_uid else entry.folder.replace("/", "-")
    return f"{of}#{path.name}"


def put(path: Path, target: Path) -> None:
    """A file of the tree under the name that the platform expects; one that is there from an earlier call goes."""
    make_folder(target.parent)
    target.unlink(missing_ok=True)
    link_or_copy(path, target)


def tell(results: Results, out: Path, names: dict[str, list[str]]) -> None:
    """Write results.json."""
    replace_json(out / TOLD, told(results, names))


def told(results: Results, names: dict[str, list[str]]) -> dict[str, Any]:
    """What came of each series, with the figures of both lungs; null where the scan does not allow one."""
    return {
        "research_use": RESEARCH_USE,
        "covct_version": __version__,
        "series": [
            {
                "series_instance_uid": entry.series_instance_uid or None,
                "status": entry.status,
                "slug": entry.slug or None,
                "message": entry.message or None,
                **{name: entry.figure(name) for name in FIGURES},
                "infection_percent_interval": entry.percent_interval,
                "severity_class": entry.severity_class,
                "warnings": [slug for slug, _ in entry.warnings],
                "files": names.get(entry.folder, []),
            }
            for entry in results.entries
        ],
    }


def sentences(results: Results) -> Iterator[str]:
    """A sentence for each series, without an identifier."""
    for entry in results.entries:
        yield _sentence(entry)


def _sentence(entry: Entry) -> str:
    if entry.status != "done":
        return f"Not segmented: {entry.slug}."  # its message may name an instance
    if entry.infection_percent is None:
        return "Segmented; the scan allows no percentage."
    interval = entry.percent_interval
    within = f" ({from_to(interval, ' to ')})" if interval else ""
    of_class = f", class {entry.severity_class}" if entry.severity_class else ""
    return f"Opacity in {share(entry.infection_percent, interval)}{within} of the lungs{of_class}."


def _series_and_instance(path: Path) -> str:
    import pydicom

    written = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
    return f"{written.SeriesInstanceUID}#{written.SOPInstanceUID}"
