"""What a pull brings into an inbox: beside it until it is whole, then in its place at once.

Instances are gathered in a hidden folder of the inbox, where nobody looks for studies, each written to the disk under a
temporary name and renamed. When a study has all that is wanted of it, its folder is renamed into the inbox. A pull that
is killed goes on where it was, and no reader ever meets a study that is still arriving.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from covct.disk.durable import fsync, make_folder, remove_halves, rename, replace_file
from covct.errors import OutputLocked
from covct.exchange.received import SIGN
from covct.intake.discover import UID_PATTERN, safe_name

STAGING = ".covct-pull"  # hidden: neither a scan nor a watch enters it
LOCK, RECORD = "lock", "pulled.jsonl"


@dataclass(frozen=True)
class Arrivals:
    """An inbox, and what is on its way into it."""

    inbox: Path

    @property
    def staging(self) -> Path:
        """Where studies are gathered."""
        return self.inbox / STAGING

    def of(self, study_uid: str) -> Path:
        """Where the instances of a study are gathered."""
        return self.staging / safe_name(study_uid)

    def studies(self) -> list[str]:
        """Study Instance UIDs of what an earlier pull left unfinished, of those whose folders are called by them."""
        return sorted(path.name for path in self.staging.glob("*/") if UID_PATTERN.fullmatch(path.name))

    def held(self, study_uid: str) -> set[str]:
        """Names of the instances gathered so far, which are their UIDs."""
        return {path.stem for path in self.of(study_uid).glob("*.dcm")}

    def keep(self, study_uid: str, uid: str, content: bytes) -> None:
        """An instance, on the disk when this returns.

        Raises
        ------
        OSError
            It is not.
        """
        folder = self.of(study_uid)
        make_folder(folder)
        replace_file(folder / f"{safe_name(uid)}.dcm", content)

    def hand_over(self, study_uid: str, counts: Mapping[str, int], marker: str = "") -> None:
        """Put what was gathered of a study into the inbox: the folder at once, or where there is one each file.

        Parameters
        ----------
        counts : mapping of str to int
            How many instances each of its series has now, by UID.
        marker : str
            Name of a file that comes last; empty: none.
        """
        gathered, place = self.of(study_uid), self.inbox / safe_name(study_uid)
        (gathered / SIGN).unlink(missing_ok=True)  # of an association that the archive has not ended yet
        if marker and gathered.is_dir():
            replace_file(gathered / marker, b"")
        if not place.exists() and gathered.is_dir():
            rename(gathered, place)
        elif gathered.is_dir():
            for path in sorted(gathered.iterdir(), key=lambda path: (path.name == marker, path.name)):
                if path.name != SIGN:
                    os.replace(path, place / path.name)
            fsync(place)
            with suppress(OSError):  # a listener of ours has put something there since: the next pull takes it
                (gathered / SIGN).unlink(missing_ok=True)
                gathered.rmdir()
        self._record(counts)

    def record(self) -> dict[str, int]:
        """How many instances of each series, by its UID, pulls have put into this inbox, wherever they are by now."""
        found: dict[str, int] = {}
        path = self.staging / RECORD
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                told = json.loads(line)
                found[str(told["series"])] = int(told["instances"])
            except (ValueError, TypeError, KeyError):  # the last line of a process that was killed
                continue
        return found

    def _record(self, counts: Mapping[str, int]) -> None:
        with open(self.staging / RECORD, "a", encoding="utf-8") as file:
            for uid, count in counts.items():
                file.write(json.dumps({"series": uid, "instances": count}) + "\n")
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def arriving(inbox: Path) -> Iterator[Arrivals]:
    """An inbox to pull into, for this process alone; half-written files of a process that was killed are removed.

    Raises
    ------
    OutputLocked
        Another process pulls into it.
    OSError
        It cannot be written.
    """
    arrivals = Arrivals(inbox)
    make_folder(arrivals.staging)
    with open(arrivals.staging / LOCK, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputLocked(f"{inbox}: another covct pull is writing there; wanted one at a time") from None
        for folder in arrivals.staging.glob("*/"):
            remove_halves(folder)
        yield arrivals
