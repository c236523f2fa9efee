"""The ledger of deliveries: which object of a result a destination has, by content. One sender writes it.

`OUT/.covct/deliveries/DESTINATION/STUDY_SERIES.json`, a file a result, replaced whole and on the disk before anything
follows from it. An object is entered once the destination has said that it has it: a sender killed between the two
sends it once more, and an archive that gets the same bytes under the same SOP Instance UID keeps one. What a result no
longer holds stays entered, since the destination still has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from covct.disk import lockfile, state
from covct.disk.documents import Count, DamagedDocument, Document, Moment, Sha256
from covct.disk.durable import make_folder, output_errors, remove_halves, replace_file
from covct.disk.places import PRIVATE, is_result_folder
from covct.exchange.answers import State

FOLDER = "deliveries"
LOCK, OWNER = "sending.lock", "sending.owner"
BUSY = "another covct is sending from here"


class Delivery(Document):
    """One object at one destination. Moments in seconds are Unix time.

    `reason` is what the destination said last, or why we could not send it; `rejected` is the SOP Instance UID of the
    note that rejects it there; `committed` when the destination took responsibility for it.
    """

    file: str
    sha256: Sha256
    work_key: str
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    series_instance_uid: str = ""
    state: State
    at: Moment
    reason: str = ""
    attempts: Count = 0
    since: float = 0.0
    not_before: float = 0.0
    rejected: str = ""
    committed: str = ""
    commitment_asked: float = 0.0


class Deliveries(Document):
    """All that a destination has, or was refused, of one result."""

    folder: str
    study_instance_uid: str = ""
    objects: list[Delivery] = []

    def of(self, file: str, sha256: str) -> Delivery | None:
        return next((one for one in self.objects if (one.file, one.sha256) == (file, sha256)), None)

    def with_one(self, new: Delivery) -> Deliveries:
        """With an entry in place of the one of this content; and of another content of this UID, which it replaces."""
        same = {(new.file, new.sha256)}
        rest = [
            one
            for one in self.objects
            if (one.file, one.sha256) not in same
            and not (new.state == "delivered" and one.sop_instance_uid == new.sop_instance_uid)
        ]
        return self.model_copy(update={"objects": [*rest, new]})


def read_deliveries(out: Path, destination: str, folder: str) -> Deliveries:
    """What a destination has of a result. A damaged file is taken for none: the same objects are sent once more."""
    try:
        found = Deliveries.read(_path(out, destination, folder))
    except (OSError, DamagedDocument):
        return Deliveries(folder=folder)
    return found if found.folder == folder else Deliveries(folder=folder)


def write_deliveries(out: Path, destination: str, deliveries: Deliveries) -> None:
    """Enter it. Raises OutputNotWritable."""
    path = _path(out, destination, deliveries.folder)
    with output_errors(out):
        make_folder(path.parent)
        replace_file(path, deliveries.as_json(indent=None))


def entered_folders(out: Path, destination: str) -> Iterator[str]:
    """The results of which a destination has something, whether they still stand or not."""
    for path in sorted((out / PRIVATE / FOLDER / destination).glob("*.json")):
        folder = path.stem.replace("_", "/", 1)
        if is_result_folder(folder):
            yield folder


def _path(out: Path, destination: str, folder: str) -> Path:
    return out / PRIVATE / FOLDER / destination / f"{folder.replace('/', '_')}.json"


@contextmanager
def only_sender(out: Path) -> Iterator[None]:
    """Be the one sender of a tree, beside whoever writes results into it: the locks are of the tree's kind, and others.

    Raises
    ------
    OutputLocked
        Another process sends from here; the message says which.
    OutputNotWritable
    """
    with ExitStack() as held:
        with output_errors(out):
            private = out / PRIVATE
            make_folder(private)
            handle = held.enter_context(open(private / LOCK, "a+b", buffering=0))
            flocked, broken = state.flocked(handle, f"{out}: {BUSY}")
            held.enter_context(lockfile.held(private / OWNER, flocked))
            if broken:
                raise OSError(broken.errno, f"the file system's locks are not responding ({broken.strerror})")
            for folder in (private / FOLDER).glob("*/"):  # not the tree's own: its writer may run in another container
                remove_halves(folder)
        yield
