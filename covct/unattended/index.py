"""What the files of an inbox said when they were read, so that the next pass need not read them again.

A convenience that may be deleted or damaged at any time: whatever is not there, or not as it was written, is read
again from the files. It lies in the output tree, so it holds no path (only hashes), of free text only the
words that the choice of a series asks for, and whose a slice is, digests that can be tried, only sealed with the tree's
identifier key: another key begins another index.

SQLite, because a pass over 100,000 files adds a few. Network file systems: no locks are taken, since `state.lock` lets
one process in; no write-ahead log, which needs shared memory. A row carries a checksum, as nothing is fsynced: a power
cut may tear the file, and a torn row shall not pass for a true one.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, fields
from hashlib import blake2b
from operator import attrgetter, is_
from pathlib import Path
from typing import Any, cast

from covct import __version__
from covct.dicom.header import Header, Instance, MediaDirectory
from covct.disk.sources import Opener, SourceFile
from covct.disk.versions import RESULT_VERSION
from covct.errors import SeriesError
from covct.intake.choice import telling_words
from covct.intake.discover import MEDIA, Facts, read_facts, study_folder
from covct.unattended.file_status import Status, status_of, with_data
from covct.unattended.refusals import Refusals
from covct.unattended.sealed import key_of_index, sealed, unsealed

log = logging.getLogger("covct")

FORMAT = 3  # raise it when the same file would be read differently, or the same study chosen from differently
FRESH_NS = 2_000_000_000  # what changed this short a time ago may change again within the tick of its time stamp
DAY_NS = 86_400_000_000_000
DAYS_KEPT = 30  # of what is not met: another inbox of the same output tree has its turn next week
ROWS_A_COMMIT = 10_000
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
DAMAGE |= {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_MISMATCH}  # not the tables that it should have
OF_A_SLICE = ("sop_instance_uid", "number", "frame", "position")  # differ from slice to slice; the rest is shared
SHARED = tuple(f.name for f in fields(Instance) if f.name not in ("file", *OF_A_SLICE))
of_a_slice, shared_of = attrgetter(*OF_A_SLICE), attrgetter(*SHARED)
TABLES = {
    "files": "key BLOB PRIMARY KEY, size INTEGER, modified INTEGER, inode INTEGER, changed INTEGER, study TEXT, "
    "facts TEXT, mark INTEGER, day INTEGER",
    "shared": "key INTEGER PRIMARY KEY, facts TEXT, day INTEGER",
    "finished": "study TEXT PRIMARY KEY, state INTEGER, results TEXT, mark INTEGER, day INTEGER",
}


@contextmanager
def open_index(
    path: Path, now_ns: Callable[[], int] = time.time_ns, *, alive: Callable[[], None] = lambda: None
) -> Iterator[Index]:
    """The index in this file; in memory where it cannot be written. `alive` is called while files are read."""
    index = Index(path, now_ns, alive=alive)
    try:
        yield index
    finally:
        index.close()


class Index:
    """What files said. `sweep` ends a pass: it writes, and forgets in memory what was not met in the pass."""

    def __init__(
        self, path: Path, now_ns: Callable[[], int] = time.time_ns, *, alive: Callable[[], None] = lambda: None
    ):
        self._path, self._now_ns, self._alive = path, now_ns, alive
        self._key = key_of_index(path.parent)
        self._today, self._tidied = now_ns() // DAY_NS, 0
        self._shared: dict[int, dict[str, Any]] = {}
        self._last: tuple[tuple[Any, ...], int, dict[str, Any]] | None = None  # as `_shared_key` was last asked
        self._stored: set[int] = set()  # keys of shared facts known to be in the database
        self._before: dict[bytes, tuple[Status, str, int]] = {}
        self._met: dict[bytes, tuple[Status, str, int]] = {}
        self._fresh: dict[bytes, Facts] = {}  # of this pass: read, and not yet to be relied on
        self._aged: set[bytes] = set()  # in the database with another day's date
        self._archive: tuple[str, Status] | None = None  # the last one asked for: its members follow one another
        self._opener = Opener()
        self._refusals = Refusals(path.parent)
        self._seen: set[bytes] = set()  # of this pass, refused ones too
        self._uncommitted = 0
        self._failed = self._told = False
        self._database = _opened(path, self._key)
        with self._surviving():
            self._load()

    def study_of(self, file: SourceFile) -> tuple[str, int] | None:
        """The study's folder, and a mark that changes with the file; None for what is no image.

        Read only where the file is new or has changed.

        Raises
        ------
        SeriesError
            `unreadable`; remembered for a while at most, since a network may change where the file does not.
        """
        key, status = _key(file), self._status(file)
        self._seen.add(key)
        known = self._met.get(key) or self._before.get(key)
        if known is None or known[0] != status:
            known, _ = self._learn(key, file, status)
        self._met[key] = known
        return (known[1], known[2]) if known[1] else None

    def facts_of(self, file: SourceFile) -> Facts:
        """What a file says, as `read_facts` does, but for free text of which no rule asks.

        Raises
        ------
        SeriesError
            `unreadable`.
        """
        key, status = _key(file), self._status(file)
        known = self._met.get(key) or self._before.get(key)
        if known and known[0] == status:
            with self._surviving():
                if found := self._recalled(key, file, known):
                    return found[0]
            if key in self._fresh:
                return self._fresh[key]
        self._met[key], encoded = self._learn(key, file, status)
        return self._decode(file, encoded)

    def still(self, file: SourceFile) -> Status | None:
        """Its status, if it is as it was met; asked by opening it: a network file system then asks its server."""
        self._alive()
        known = self._met.get(_key(file)) or self._before.get(_key(file))
        try:
            descriptor = os.open(file.where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            now = status_of(descriptor)
            return now if known is not None and known[0] == with_data(file, now) else None
        finally:
            os.close(descriptor)

    def finish(self, study: str, fingerprint: int, wishes: str, results: list[list[str]]) -> None:
        """Note what came of a study whose files have this fingerprint, when this was asked for."""
        with self._surviving():
            state, text = _mark(fingerprint, wishes), json.dumps(results)
            row = study, state, text, _mark(study, state, text), self._today
            self._database.execute("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?, ?)", row)

    def finished(self, study: str, fingerprint: int, wishes: str) -> list[list[str]] | None:
        """What was noted of the study in this very state; None where nothing was."""
        with self._surviving():
            state = _mark(fingerprint, wishes)
            query = "SELECT results, mark, day FROM finished WHERE study = ? AND state = ?"
            row = self._database.execute(query, (study, state)).fetchone()
            if row and row[1] == _mark(study, state, row[0]):
                if row[2] != self._today:
                    self._database.execute("UPDATE finished SET day = ? WHERE study = ?", (self._today, study))
                results: list[list[str]] | None = json.loads(row[0])
                return results
        return None

    def sweep(self) -> None:
        """End of a pass over the sources."""
        self._before = {key: known for key, known in self._met.items() if key not in self._fresh}
        self._met, self._fresh, self._archive = {}, {}, None
        self._refusals.sweep(self._seen)
        self._seen = set()
        self._opener.close()
        today = self._now_ns() // DAY_NS
        if today != self._today:  # of a watch that runs for months
            self._today, self._aged = today, set(self._before)
            self._shared.clear()
            self._stored.clear()
        with self._surviving():
            rows = [(self._today, key) for key in self._aged & self._before.keys()]
            self._database.executemany("UPDATE files SET day = ? WHERE key = ?", rows)
            self._aged.clear()
            if today != self._tidied:
                for table in TABLES:
                    self._database.execute(f"DELETE FROM {table} WHERE abs(day - ?) > ?", (today, DAYS_KEPT))
                self._tidied = today
            self._commit()

    def close(self) -> None:
        self.sweep()
        self._refusals.close()
        self._database.close()

    def _status(self, file: SourceFile) -> Status:
        try:
            if not file.member:
                return with_data(file, status_of(file.where))
            if not self._archive or self._archive[0] != file.where:
                self._archive = file.where, status_of(file.where)
            return self._archive[1]
        except OSError as error:
            raise SeriesError("unreadable", f"the file cannot be read: {error.strerror}", file.label) from error

    def _learn(self, key: bytes, file: SourceFile, status: Status) -> tuple[tuple[Status, str, int], Any]:
        """Read the file, and keep what it says: in the database, or for this pass if it has just changed.

        What is read and what is recalled are the same: both are decoded."""
        self._fresh.pop(key, None)
        with self._refusals.watched(key, status, file.label):
            facts = read_facts(file, self._opener, self._alive)
        self._alive()
        encoded = self._encode(facts)
        text = json.dumps(encoded, separators=(",", ":"))
        study = "" if facts is None else study_folder(file, facts)
        known = status, sys.intern(study), _mark(key, status, study, text)
        if self._holds_still(file, status):
            with self._surviving():
                self._store(key, known, text, encoded)
        else:
            self._fresh[key] = self._decode(file, encoded)
        return known, encoded

    def _holds_still(self, file: SourceFile, status: Status) -> bool:
        try:
            return with_data(file, status_of(file.where)) == status and abs(self._now_ns() - status[3]) >= FRESH_NS
        except OSError:
            return False

    def _encode(self, facts: Facts) -> Any:
        """Facts as JSON holds them; what slices share is put aside under its key."""
        if isinstance(facts, MediaDirectory):
            return {MEDIA: True}
        if not isinstance(facts, Header):
            return facts
        return [[self._shared_key(one, facts), *of_a_slice(one)] for one in facts.instances]

    def _shared_key(self, instance: Instance, header: Header) -> int:
        """The key under which stands what slices share; found at once where the last slice had the very same."""
        values = *shared_of(instance), header.study_uid, header.series_uid
        if self._last is None or not all(map(is_, self._last[0], values)):
            shared = dict(zip((*SHARED, "study_uid", "series_uid"), values, strict=True))
            shared["body_part"], shared["comment"] = telling_words(instance.body_part, instance.comment)
            shared["patient"] = sealed(astuple(instance.patient), self._key)
            self._last = values, _mark(json.dumps(shared)), shared
        self._shared.setdefault(*self._last[1:])
        return self._last[1]

    def _decode(self, file: SourceFile, encoded: Any) -> Facts:
        if isinstance(encoded, dict):
            return MediaDirectory()
        if not isinstance(encoded, list):
            return cast(Facts, encoded)
        instances, header = [], {}
        for key, *of_a_slice in encoded:
            header = dict(self._shared[key])
            identity = header.pop("study_uid"), header.pop("series_uid")
            header["patient"] = unsealed(header["patient"], self._key)
            own = dict(zip(OF_A_SLICE, map(_tuple, of_a_slice), strict=True))
            instances.append(Instance(file=file, **own, **header))
        return Header(*identity, tuple(instances))

    def _recalled(self, key: bytes, file: SourceFile, known: tuple[Status, str, int]) -> tuple[Facts] | None:
        row = self._database.execute("SELECT facts FROM files WHERE key = ?", (key,)).fetchone()
        if row is None or _mark(key, *known[:2], row[0]) != known[2]:
            return None
        encoded = json.loads(row[0])
        if isinstance(encoded, list) and not all(self._has_shared(one[0]) for one in encoded):
            return None
        return (self._decode(file, encoded),)

    def _has_shared(self, key: int) -> bool:
        """Load what several slices share; its key is its own checksum."""
        if key not in self._shared:
            row = self._database.execute("SELECT facts, day FROM shared WHERE key = ?", (key,)).fetchone()
            if row is None or _mark(row[0]) != key:
                return False
            self._shared[key] = {name: _tuple(value) for name, value in json.loads(row[0]).items()}
            self._stored.add(key)
            if row[1] != self._today:
                self._database.execute("UPDATE shared SET day = ? WHERE key = ?", (self._today, key))
        return True

    def _load(self) -> None:
        """Which files are known, and of which study; rows that were torn are not."""
        for key, *status, study, facts, mark, day in self._database.execute("SELECT * FROM files"):
            if mark == _mark(key, tuple(status), study, facts):
                self._before[key] = tuple(status), sys.intern(study), mark
                if day != self._today:
                    self._aged.add(key)

    def _store(self, key: bytes, known: tuple[Status, str, int], text: str, encoded: Any) -> None:
        for shared in {one[0] for one in encoded} - self._stored if isinstance(encoded, list) else ():
            row = shared, json.dumps(self._shared[shared]), self._today
            self._database.execute("INSERT OR REPLACE INTO shared VALUES (?, ?, ?)", row)
            self._stored.add(shared)
        status, study, mark = known
        values = key, *status, study, text, mark, self._today
        self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        self._uncommitted += 1
        if self._uncommitted >= ROWS_A_COMMIT:
            self._commit()

    def _commit(self) -> None:
        self._database.commit()
        self._uncommitted = 0

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """A damaged database is thrown away and another begun, in memory if that is damaged too. One that cannot be
        written stays as it is: a full disk of one night shall not make the next one read every header."""
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, LookupError) as error:
            if not _is_damage(error):
                self._give_up_writes(error)
                return
            log.warning("the index of headers is damaged and will be rebuilt: %s", type(error).__name__)
            with suppress(sqlite3.Error):
                self._database.close()
            _remove(self._path)
            self._stored.clear()
            self._database = _connected(":memory:", self._key) if self._failed else _opened(self._path, self._key)
            self._failed = True

    def _give_up_writes(self, error: Exception) -> None:
        """Of what was not committed; what comes later is tried again, as the disk may have room by then."""
        if not self._told:
            log.warning("the index of headers cannot be written: what is new will be read again: %s", error)
        self._told = True
        self._stored.clear()  # what several files share may be among what is given up
        self._uncommitted = 0
        with suppress(sqlite3.Error):
            self._database.rollback()


def _opened(path: Path, key: bytes) -> sqlite3.Connection:
    """The database, empty where it was absent, damaged or of another version; in memory where none can be written."""
    for _ in range(2):
        try:
            if not path.exists():  # as the key; SQLite's own mode is 0644, and what it writes beside takes the file's
                path.touch(0o600)
            return _connected(f"{path.absolute().as_uri()}?nolock=1", key)
        except (sqlite3.Error, OSError) as error:
            if not _is_damage(error):
                break
            _remove(path)
    log.warning("the index of headers cannot be written: every file will be read again by the next run")
    return _connected(":memory:", key)


def _connected(address: str, key: bytes) -> sqlite3.Connection:
    database = sqlite3.connect(address, uri=True)
    try:
        for setting in ("journal_mode = TRUNCATE", "synchronous = OFF", "temp_store = MEMORY"):
            database.execute(f"PRAGMA {setting}")
        mark = hmac.digest(key, b"version", "sha256")
        version = abs(_mark(FORMAT, __version__, RESULT_VERSION, SHARED, OF_A_SLICE, TABLES, mark)) % 2**31
        [found] = database.execute("PRAGMA user_version").fetchone()
        if found not in (0, version):
            raise sqlite3.DatabaseError("of another version")
        if not found:
            database.execute(f"PRAGMA user_version = {version}")
        for table, columns in TABLES.items():
            database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) WITHOUT ROWID")
        database.commit()
    except BaseException:
        database.close()
        raise
    return database


def _is_damage(error: Exception) -> bool:
    """Whether the database itself is wrong; not the disk below it, which may be full, read-only or failing."""
    if isinstance(error, OSError):
        return False
    code = getattr(error, "sqlite_errorcode", None)  # none where Python or this module complains of what was read
    return code is None or code & 0xFF in DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ


def _remove(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}-journal")):
        with suppress(OSError):
            name.unlink()


def _key(file: SourceFile) -> bytes:
    """A path may hold a patient's name."""
    return blake2b(os.fsencode(f"{file.where}\0{file.member}\0{file.entry}"), digest_size=16).digest()


def _mark(*parts: Any) -> int:
    """64 bits that stand for the parts."""
    return int.from_bytes(blake2b(repr(parts).encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
