"""Old results without the formats that nobody looks at any more. What was found, and its masks, stay."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from covct.disk import state
from covct.disk.durable import link_or_copy, output_errors
from covct.disk.outcome import Outcome, moment_of, read_outcome
from covct.disk.places import PRIVATE, SUMMARY_DUE, results_in
from covct.outputs import FORMATS, with_needed
from covct.results.summary import Summary


@dataclass(frozen=True)
class Pruned:
    """What is taken away from one result.

    Attributes
    ----------
    folder : str
        ``study/series`` below the output tree.
    formats, files : tuple of str
    bytes : int
    """

    folder: str
    formats: tuple[str, ...]
    files: tuple[str, ...]
    bytes: int


def prune(out: Path, before: datetime, keep: Collection[str], *, dry_run: bool = False) -> Iterator[Pruned]:
    """Take formats away from the results that were first computed before a moment, one result after the other.

    Each result is replaced whole, as a scan does it: with what stays of it, and an outcome that says what does not. The
    reports stay. Killed at any moment and called again, it goes on.

    Parameters
    ----------
    keep : collection of str
        Formats that stay, with those that they need; where a result has NIfTI masks in place of DICOM objects, these.
    dry_run : bool
        Write nothing, and hold no lock.

    Raises
    ------
    OutputLocked, OutputNotWritable, UsageError
        As `state.lock`.
    """
    if dry_run:
        yield from (one for _, one in _found(out, before, keep))
        return
    with state.lock(out):
        state.recover(out)
        due = out / PRIVATE / SUMMARY_DUE
        try:
            for outcome, one in _found(out, before, keep):
                with output_errors(out):
                    due.touch()
                _take_away(out, outcome, one)
                yield one
        finally:  # also where it was stopped: no page shall lead to what is gone
            with output_errors(out):
                if due.exists():
                    Summary(out).write()
                    due.unlink(missing_ok=True)


def _found(out: Path, before: datetime, keep: Collection[str]) -> Iterator[tuple[Outcome, Pruned]]:
    for folder in results_in(out):
        outcome = read_outcome(folder)
        if outcome and outcome.status == "done" and (moment := moment_of(outcome)) and moment < before:
            kept = _kept(outcome, keep)
            formats = tuple(name for name in outcome.held if name not in kept)
            files = tuple(one for name in formats for one in FORMATS[name].among(outcome.files))
            if files:
                sizes = ((folder / name).stat().st_size for name in files if (folder / name).exists())
                yield outcome, Pruned(f"{folder.parent.name}/{folder.name}", formats, files, sum(sizes))


def _kept(outcome: Outcome, keep: Collection[str]) -> set[str]:
    """What stays of a result: where it has no DICOM object, or no SEG, what stands in for those."""
    kept = with_needed(keep)
    objects = {name for name, one in FORMATS.items() if one.only_dicom}
    none = not any(name.endswith(".dcm") for name in outcome.files)
    if (kept & objects and none) or ("seg" in kept and "seg" not in outcome.held):
        kept |= {name for name, one in FORMATS.items() if one.stands_in}
    return kept


def _take_away(out: Path, outcome: Outcome, pruned: Pruned) -> None:
    stage, folder = state.new_stage(out, outcome.work_key), out / pruned.folder
    stays = {name: digest for name, digest in outcome.files.items() if name not in pruned.files}
    with output_errors(out):
        for name in stays:
            if (folder / name).exists():  # what else is missing, is missing still
                link_or_copy(folder / name, stage / name)
    gone = {*outcome.pruned, *pruned.formats}
    kinds = {name: kind for name, kind in outcome.formats.items() if name not in gone}
    changed = {"files": stays, "formats": kinds, "pruned": [name for name in FORMATS if name in gone]}
    state.commit(out, pruned.folder, stage, outcome.model_copy(update=changed))
