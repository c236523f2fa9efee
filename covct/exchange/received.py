"""An inbox that instances are received into: on the disk before anybody is told so, as they were sent.

    INBOX/.3.4711.tmp                      an instance that is being received; hidden, and gone with its process
    INBOX/STUDY/SOP_INSTANCE.dcm           one that was acknowledged
    INBOX/STUDY/receiving.part             an association brings this study now: its time goes on
    INBOX/.whole/STUDY                     how many instances it has, once all have come that its sender announced

Whoever looks for studies (`scan`, `watch`) passes over the first, and takes the last, by its name, for a transfer into
the same folder that goes on: a study does not settle before its association has ended. What a killed listener leaves
changes no more, and holds nothing back. A study that is whole need not settle.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from covct.dicom.valid import is_uid
from covct.disk.durable import BESIDE, fsync, make_folder, remove_halves, replace_file
from covct.errors import OutputNotWritable
from covct.exchange.data_set_head import DataSetHead, read_head
from covct.intake.discover import safe_name
from covct.unattended.inbox import WHOLE

SIGN = "receiving.part"
STORED, AGAIN, REPLACED = "stored", "again", "replaced"  # what became of an instance that was acknowledged
PIECE = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What the sender of an instance is told (PS3.4 B.2.3, PS3.7 C).

    Attributes
    ----------
    status : int
    said : str
        Why not, in a sentence; what became of it, where it is a success.
    """

    status: int
    said: str


SUCCESS = 0x0000
INVALID_INSTANCE = 0x0117  # a SOP Instance UID that is none


def out_of_resources(error: OSError) -> Answer:
    """The disk does not take it."""
    return Answer(0xA700, f"out of resources: {error.strerror or type(error).__name__}")


def does_not_match(what: str) -> Answer:
    """The data set is not what the command says."""
    return Answer(0xA900, f"the data set does not match: {what}")


def not_understood(why: str) -> Answer:
    """The data set cannot be read as far as is needed."""
    return Answer(0xC000, f"the data set cannot be understood: {why}")


class Inbox:
    """A directory that instances are received into; its methods may be called from any thread.

    Raises
    ------
    OutputNotWritable
        It cannot be written to.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._numbers = count()
        self._open: Counter[Path] = Counter()  # associations that bring a study now, by its sign
        self._announced: dict[Path, int] = {}  # instances that these studies will have
        self._lock = threading.Lock()
        try:
            make_folder(folder)
            remove_halves(folder)
            for sign in folder.glob(f"*/{SIGN}"):
                sign.unlink(missing_ok=True)
            for noted in folder.glob(f"{WHOLE}/*"):
                if not (folder / noted.name).is_dir():
                    noted.unlink(missing_ok=True)
            (probe := self._beside()).touch()
            probe.unlink()
        except OSError as error:
            raise OutputNotWritable(f"{folder}: cannot receive into it: {error.strerror}") from error

    def begin(self, sop_class_uid: str, sop_instance_uid: str, syntax: str) -> Incoming:
        """An instance that a command announces, to be written as it comes."""
        return Incoming(self, sop_class_uid, sop_instance_uid, syntax, self._beside())

    def _beside(self) -> Path:
        return self.folder / BESIDE.format(name=next(self._numbers), process=os.getpid())

    def touch(self) -> None:
        """Show that what is open goes on; to be called again and again."""
        with self._lock:
            for sign in self._open:
                with suppress(OSError):
                    sign.touch()

    @contextmanager
    def association(self) -> Iterator[Bringing]:
        """What one association brings, until it ends."""
        bringing = Bringing(self)
        try:
            yield bringing
        finally:
            bringing.leave()

    def _hold(self, sign: Path, by: int) -> None:
        """One more, or one less, that brings this study. A sign is a wish, not a duty: a full disk takes none."""
        with self._lock:
            self._open[sign] += by
            with suppress(OSError):
                if self._open[sign] <= 0:
                    del self._open[sign]
                    self._note_whole(sign.parent, self._announced.pop(sign, 0))
                    sign.unlink()
                elif by > 0:
                    sign.touch()
                    (self.folder / WHOLE / sign.parent.name).unlink(missing_ok=True)

    def _note_whole(self, study: Path, announced: int) -> None:
        """Note that a study has all that was announced, if it has: `watch` then waits no longer."""
        if announced and sum(1 for _ in study.glob("*.dcm")) == announced:
            (self.folder / WHOLE).mkdir(exist_ok=True)
            replace_file(self.folder / WHOLE / study.name, str(announced), to_disk=False)


@dataclass
class Bringing:
    """What an association brings.

    Attributes
    ----------
    acknowledged : Counter of (str, str)
        How many instances, by Study Instance UID and SOP Class UID.
    """

    inbox: Inbox
    acknowledged: Counter[tuple[str, str]] = field(default_factory=Counter)
    _sign: Path | None = None

    def bring(self, folder: Path, announced: int) -> None:
        """An instance of the study in this folder has come: it is the one that goes on now.

        `announced`: how many instances it will have, says its sender; 0 where nothing is said.
        """
        sign = folder / SIGN
        if sign != self._sign:
            self.leave()
            self._sign = sign
            self.inbox._hold(sign, 1)
        self.inbox._announced[sign] = announced

    def leave(self) -> None:
        """The association has ended, or has gone on to another study."""
        if self._sign:
            self.inbox._hold(self._sign, -1)
            self._sign = None


@dataclass
class Incoming:
    """One instance on its way.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid : str
        As the command says.
    syntax : str
        Transfer Syntax UID of the context.
    """

    inbox: Inbox
    sop_class_uid: str
    sop_instance_uid: str
    syntax: str
    _path: Path
    _failed: Answer | None = None
    _file: BinaryIO | None = None
    _data_at: int = field(default=0)

    def write(self, fragment: memoryview) -> None:
        """Write a piece of the data set. Where the disk does not take it the rest is let by: the sender is told."""
        if self._failed:
            return
        try:
            if self._file is None:
                self._begin()
            assert self._file
            self._file.write(fragment)
        except OSError as error:
            self._failed = out_of_resources(error)
            self.discard()

    def finish(self, bringing: Bringing) -> Answer:
        """The data set has ended: bring it to the disk under its name. What the sender is to be told."""
        try:
            if not self._failed and self._file is None:
                self._failed = not_understood("it is empty")
            if self._failed:
                return self._failed
            assert self._file
            self._file.flush()
            head = self._head()
            return head if isinstance(head, Answer) else self._placed(head, bringing)
        except OSError as error:
            return out_of_resources(error)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave nothing of it that has no name."""
        with suppress(OSError):
            if self._file:
                self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._file = self._path.open("w+b", PIECE)
        self._file.write(file_header(self.sop_class_uid, self.sop_instance_uid, self.syntax))
        self._data_at = self._file.tell()

    def _head(self) -> DataSetHead | Answer:
        assert self._file
        self._file.seek(self._data_at)
        try:
            head = read_head(self._file, self.syntax)
        except Exception as error:  # zlib has an error of its own
            return not_understood(str(error) if isinstance(error, ValueError) else "it is damaged")
        if head.sop_class_uid != self.sop_class_uid:
            return does_not_match("it is of another SOP class than the command says")
        if head.sop_instance_uid != self.sop_instance_uid:
            return does_not_match("it has another SOP Instance UID than the command says")
        return head if head.study_uid else not_understood("it has no Study Instance UID")

    def _placed(self, head: DataSetHead, bringing: Bringing) -> Answer:
        """Give it its name, unless one of the same bytes has it: who sends again what lies there changes nothing.

        Other bytes under the same UID take the place of the first, as any later file does: what came last is the
        study's (a corrected header, another transfer syntax), and `watch` reads it anew.
        """
        assert self._file
        folder = self.inbox.folder / safe_name(head.study_uid)
        place = folder / f"{self.sop_instance_uid}.dcm"
        became = _known(self._path, place)
        if became != AGAIN:
            os.fsync(self._file.fileno())
        for _ in range(2):
            make_folder(folder)
            bringing.bring(folder, head.related_instances)
            with suppress(FileNotFoundError):  # whoever moves studies away has just removed the emptied folder
                if became != AGAIN:
                    os.replace(self._path, place)
                fsync(folder)
                bringing.acknowledged[head.study_uid, self.sop_class_uid] += 1
                return Answer(SUCCESS, became)
        raise FileNotFoundError(errno.ENOENT, "the study's folder is removed again and again")


def file_header(sop_class_uid: str, sop_instance_uid: str, syntax: str) -> bytes:
    """Preamble and file meta information (PS3.10 7.1): the same for the same instance, whoever sends it, and when."""
    uids = {0x02: sop_class_uid, 0x03: sop_instance_uid, 0x10: syntax, 0x12: PYDICOM_IMPLEMENTATION_UID}
    elements = struct.pack("<HH2sHL", 2, 1, b"OB", 0, 2) + b"\0\1"
    for number, uid in uids.items():
        value = (uid + "\0" * (len(uid) % 2)).encode()
        elements += struct.pack("<HH2sH", 2, number, b"UI", len(value)) + value
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(elements)) + elements


def _known(path: Path, place: Path) -> str:
    """What becomes of the file at `path` once it is at `place`."""
    try:
        return AGAIN if _same(path, place) else REPLACED
    except FileNotFoundError:
        return STORED


def _same(one: Path, other: Path) -> bool:
    with one.open("rb") as mine, other.open("rb") as theirs:
        if os.fstat(mine.fileno()).st_size != os.fstat(theirs.fileno()).st_size:
            return False
        while piece := mine.read(PIECE):
            if piece != theirs.read(PIECE):
                return False
    return True


def is_name(sop_instance_uid: str) -> bool:
    """Whether a SOP Instance UID may name a file: digits and dots, no path."""
    return is_uid(sop_instance_uid) and not sop_instance_uid.endswith(".")
