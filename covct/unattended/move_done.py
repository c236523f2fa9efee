"""Source files of finished studies to another directory: nothing overwritten, nothing half, nothing lost in a crash.

A sender may replace a file at any moment, so that what is looked at need not be what is taken. Each file is therefore
renamed aside first, where no sender looks; what is there is compared with what was processed, and put back where it
differs. The name aside is one that the next look finds: what a crash leaves under it is a file of its study like any
other, with or without `--move-done`.

A detached header (MetaImage, NRRD) and the file with its voxels are one: they keep their names, by which the one finds
the other, and go to one folder, the header last. `put_back` ends what a crash left between the two.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path

from covct.disk.durable import fsync, make_folder, remove_halves, replace_file
from covct.disk.places import PRIVATE
from covct.disk.sources import SourceFile, check_apart
from covct.disk.state import lock
from covct.errors import RunError
from covct.intake.volume_header import data_file
from covct.unattended.file_status import Status, status_of
from covct.unattended.moved_file import (
    ASIDE,
    Replaced,
    into,
    is_reservation,
    move_file,
    put_aside_back,
    reserved,
    same_contents,
    set_aside,
    target_of,
)

UNFINISHED = "unfinished-pair"  # below PRIVATE of the target; no study is called so
Place = tuple[Path, Path, Path]  # of a file: its path, that below its source, and its source


def check_place(done: Path, sources: Iterable[Path], out: Path) -> None:
    """Refuse a directory where moved files would be found again, or lie among results.

    Raises
    ------
    UsageError
    """
    check_apart(done, (*sources, out), "--move-done")


def move_study(
    study: str,
    files: Mapping[Path, Status],
    roots: Iterable[Path],
    done: Path,
    marker: str = "",
    alive: Callable[[], None] = lambda: None,
    gone: Iterable[Path] = (),
) -> list[str]:
    """Move files of a study to the same path below `done` as they have below their source.

    What is not a regular file below one of the `roots` (links, what was moved before) stays. Folders that are left
    empty, or with nothing but the marker, go too. Where the process dies, each file is whole in one of the two places
    or in both, and the next call ends what was begun.

    Parameters
    ----------
    study : str
        Its folder in the output tree: `moved_before` finds its files by it.
    files : mapping of Path to Status
        Each with what it was when it was processed, as `status_of` says. Where one is another by now it stays, and
        what was not moved before it.
    alive : function ()
        Called at each file: copying thousands to a slow disk takes hours.
    gone : iterable of Path
        Files that were moved before and are none of the study any more, as their instances were sent again: they stay
        where they are.

    Returns
    -------
    list of str
        Why files were not moved.
    """
    homes = [Path(os.path.realpath(root if root.is_dir() else root.parent)) for root in roots]
    below = [(path, relative, home) for path in files for relative, home in [_relative(path, homes)] if home]
    if not below:
        return []
    try:
        with lock(done):  # two processes may move to one directory
            _finish(done)
            units = _units(below)
            targets = {unit[0][0]: target_of(unit[0][0], done / unit[0][1]) for unit in units if len(unit) == 1}
            _note(done, study, [target.relative_to(done) for target in targets.values()], gone)
            return _move_all(study, units, files, targets, done, marker, alive)
    except RunError as error:
        return [str(error)]
    except OSError as error:
        return [f"{done}: {error.strerror}"]


def _move_all(
    study: str,
    units: list[list[Place]],
    files: Mapping[Path, Status],
    targets: Mapping[Path, Path],
    done: Path,
    marker: str,
    alive: Callable[[], None],
) -> list[str]:
    reasons: list[str] = []
    for unit in units:
        path, relative, home = unit[0]
        alive()
        try:
            if len(unit) > 1:
                _move_together(study, unit, files, done)
            elif (target := move_file(path, done / relative, files[path])) != targets[path]:  # that name was taken
                _note(done, study, [target.relative_to(done)])
            _leave(path.parent, home, done, marker)
        except FileNotFoundError:
            continue  # someone else was faster
        except Replaced as error:
            return [*reasons, str(error.strerror)]
        except OSError as error:
            reasons.append(f"{error.strerror or error}")
    return reasons


def _units(below: list[Place]) -> list[list[Place]]:
    """Files that go together: voxels, and the headers that name them. A header whose voxels have to stay, stays."""
    places = {place[0]: place for place in below}
    named = {path: data.path for path in places if (data := data_file(SourceFile(str(path))))}
    units = {path: [place] for path, place in places.items() if path not in named}
    for header, voxels in named.items():
        if voxels in units:
            units[voxels].append(places[header])
    return list(units.values())


def _move_together(study: str, unit: list[Place], files: Mapping[Path, Status], done: Path) -> None:
    """Voxels, then their header, each under its own name: to a folder of their own where a name is taken."""
    folder = _free_folder(unit, done)
    make_folder(folder)
    targets = [folder / relative.name for _, relative, _ in unit]
    _note(done, study, [target.relative_to(done) for target in targets])
    moves = [(path, target, files[path]) for (path, _, _), target in zip(unit, targets, strict=True)]
    _begin(done, moves)
    held: list[tuple[Path, Path, Path]] = []
    try:
        for path, target, processed in moves:
            held.append((aside := set_aside(path, processed), path, target))
            if status_of(aside)[:3] != processed[:3]:
                raise Replaced
        for (aside, _, _), (_, target, processed) in zip(held, moves, strict=True):
            into(aside, target, processed)
    except BaseException as error:
        if isinstance(error, Replaced):  # the other header is one of these voxels
            _bring_back(*moves[0][:2])
        for aside, path, target in held:
            if os.path.lexists(aside):
                put_aside_back(aside, path, target)
        raise
    (done / PRIVATE / UNFINISHED).unlink()


def _free_folder(unit: list[Place], done: Path) -> Path:
    """Where none of the names is taken: as below the source, or a numbered folder in it."""
    relative = unit[-1][1]
    wanted = done / relative.parent
    for number in count(1):
        folder = wanted / f"{relative.stem}.{number}" if number > 1 else wanted
        names = [folder / name.name for _, name, _ in unit]
        is_place = folder.is_dir() or not os.path.lexists(folder)
        if is_place and not any(os.path.lexists(name) and not is_reservation(name) for name in names):
            return folder
    raise AssertionError("names never end")


def _begin(done: Path, moves: list[tuple[Path, Path, Status]]) -> None:
    """Write down which files belong together, before the first is moved."""
    told = [(os.path.abspath(path), str(target.relative_to(done)), status) for path, target, status in moves]
    # JSON escapes what is not ASCII, also bytes that are no UTF-8.
    replace_file(done / PRIVATE / UNFINISHED, json.dumps(told))


def _finish(done: Path) -> None:
    """Bring headers to their voxels, where the process died between the two."""
    note = done / PRIVATE / UNFINISHED
    try:
        moves = [(Path(path), done / target, status) for path, target, status in json.loads(note.read_bytes())]
    except FileNotFoundError:
        return
    except ValueError:  # of a disk that lost it
        moves = []
    if moves and moves[0][1].is_file() and not is_reservation(moves[0][1]):  # else nothing was moved
        (voxels, placed, _), *headers = moves
        for aside in _asides(voxels):
            if same_contents(aside, placed):  # copied to another file system, and not yet removed
                aside.unlink()
        for header, target, processed in headers:
            for path in (header, *_asides(header)):
                if path.is_file() and list(status_of(path)[:3]) == processed[:3]:
                    with suppress(FileNotFoundError, Replaced):
                        move_file(path, target, status_of(path))
                    break
    note.unlink()


def _asides(path: Path) -> list[Path]:
    with suppress(OSError):
        found = [(ASIDE.fullmatch(name), name) for name in sorted(os.listdir(path.parent))]
        return [path.with_name(name) for match, name in found if match and match[1] == path.name]
    return []


def _bring_back(voxels: Path, placed: Path) -> None:
    with suppress(OSError):
        if placed.is_file() and not is_reservation(placed) and not os.path.lexists(voxels) and not _asides(voxels):
            into(placed, voxels, status_of(placed))


def put_back(asides: Iterable[Path], done: Path) -> bool:
    """End what a crash left: a file that is still aside gets its name back where nobody took it.

    Parameters
    ----------
    asides : iterable of Path
        Files below the sources whose names are those of files set aside.

    Returns
    -------
    bool
        Whether the sources hold other names now.
    """
    asides, unfinished = list(asides), (done / PRIVATE / UNFINISHED).exists()
    if not asides and not unfinished:
        return False
    changed = unfinished
    with suppress(RunError, OSError), lock(done):  # else another process is moving: they are its own
        remove_halves(done / PRIVATE)
        _finish(done)
        for aside in asides:
            name = ASIDE.fullmatch(aside.name)
            assert name
            changed |= _named_again(aside, aside.with_name(name[1]))
    return changed


def _named_again(aside: Path, path: Path) -> bool:
    """Rename without ever replacing; where links are not to be had (SMB), over a file that reserves the name."""
    with suppress(OSError):
        if not stat.S_ISREG(os.lstat(aside).st_mode):
            return False
        try:
            os.link(aside, path)
            aside.unlink()
        except FileExistsError:
            if os.path.samefile(aside, path):  # linked, and not yet removed
                aside.unlink()
            return False
        except OSError:
            if not reserved(path):
                return False
            os.rename(aside, path)
        return True
    return False


def moved_before(done: Path, study: str) -> list[Path]:
    """Files of a study that were moved: with a slice that comes late they are one study again."""
    try:
        names = (done / PRIVATE / study).read_bytes().split(b"\0")
    except OSError:
        return []
    paths = [done / os.fsdecode(name) for name in names if name]
    return [path for path in paths if path.is_file() and not is_reservation(path)]


def _relative(path: Path, homes: list[Path]) -> tuple[Path, Path | None]:
    """The path below its source, and the source; None where it is a link, or lies elsewhere."""
    left = ASIDE.fullmatch(path.name)  # by a crash
    real = Path(os.path.realpath(path.parent)) / (left[1] if left else path.name)
    for home in homes:
        if home in real.parents and path.exists() and stat.S_ISREG(os.lstat(path).st_mode):
            return real.relative_to(home), home
    return path, None


def _note(done: Path, study: str, names: list[Path], gone: Iterable[Path] = ()) -> None:
    """Write down, before the first is moved, where the files of a study will be; and no longer what is `gone`."""
    ledger = done / PRIVATE / study
    make_folder(ledger.parent)
    known = {os.fsencode(path.relative_to(done)) for path in {*moved_before(done, study)} - {*gone}}
    replace_file(ledger, b"\0".join(sorted(known | {os.fsencode(name) for name in names})))


def _leave(folder: Path, home: Path, done: Path, marker: str) -> None:
    """Remove a folder that is empty now, and those above it; a marker alone goes where the files went."""
    with suppress(OSError):  # not empty, or not ours: then it stays
        while True:
            real = Path(os.path.realpath(folder))
            if marker and os.listdir(folder) == [marker]:
                make_folder(done / real.relative_to(home))
                into(folder / marker, done / real.relative_to(home) / marker, status_of(folder / marker))
            if real == home or home not in real.parents:
                return
            with os.scandir(folder) as entries:
                if any(entries):
                    return
            if (target := done / real.relative_to(home)).is_dir():
                fsync(target)  # else a power failure may find the folder gone, and the files not yet where they went
            folder.rmdir()
            folder = folder.parent
