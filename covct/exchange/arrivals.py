"""What a pull brings into an inbox: beside it until it is whole, then in its place at once.

Instances are gathered in a hidden folder of the inbox, where nobody looks for studies, each written to the disk under a
temporary name and renamed. When a study has all that is wanted of it, its folder is renamed into the inbox. A pull that
is killed goes on where it was, and no reader ever meets a study that is still arriving.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from covct.disk.durable import fsync, make_folder, remove_halves, rename, replace_file
from covct.errors import OutputLocked
from covct.exchange.archive import FoundSeries
from covct.intake.discover import safe_name

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

    def of(self, series: FoundSeries) -> Path:
        """Where the instances of a series are gathered."""
        return self.staging / safe_name(series.study_uid) / safe_name(series.uid)

    def studies(self) -> list[str]:
        """Study Instance UIDs of what an earlier pull left unfinished."""
        return sorted(path.name for path in self.staging.glob("*/"))

    def held(self, series: FoundSeries) -> set[str]:
        """Names of the instances gathered so far, which are their UIDs."""
        return _names(self.of(series))

    def keep(self, series: FoundSeries, uid: str, content: bytes) -> None:
        """An instance, on the disk when this returns.

        Raises
        ------
        OSError
            It is not.
        """
        folder = self.of(series)
        make_folder(folder)
        replace_file(folder / f"{safe_name(uid)}.dcm", content)

    def hand_over(self, study_uid: str, series: Sequence[FoundSeries], marker: str = "") -> int:
        """Put a study into the inbox, and say how many instances that were: the whole folder at once; where the study
        is there already, each series at once; where that is there too, the instances that it lacks."""
        name = safe_name(study_uid)
        gathered, place = self.staging / name, self.inbox / name
        arrived = {one.uid: self.held(one) for one in series}
        if not any(arrived.values()):
            return 0
        self._record({uid: len(held | _names(place / safe_name(uid))) for uid, held in arrived.items()})
        if marker:
            replace_file(gathered / marker, b"")
        if place.exists():
            self._join(gathered, place, marker)
        else:
            rename(gathered, place)
        return sum(map(len, arrived.values()))

    def _join(self, gathered: Path, place: Path, marker: str) -> None:
        for folder in sorted(path for path in gathered.iterdir() if path.is_dir()):
            if not (place / folder.name).exists():
                rename(folder, place / folder.name)
                continue
            for path in sorted(folder.iterdir()):
                os.replace(path, place / folder.name / path.name)
            fsync(place / folder.name)
            folder.rmdir()
        if marker:  # the last: it says that all is there
            rename(gathered / marker, place / marker)
        gathered.rmdir()

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


def _names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.dcm")} if folder.is_dir() else set()


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
        for folder in arrivals.staging.glob("*/*/"):
            remove_halves(folder)
        yield arrivals
