"""What a disk may hold after a power failure: of the calls that were recorded, all that need not have reached it.

After a failure at some call

- a folder's changes that no fsync of it followed may be there or not, in the order in which they were made; those of
  two folders in any order; a rename is one change of both its folders (journaling file systems keep to that);
- of a file's bytes that no fsync of it followed there may be all, none, as many zeros, an empty file, half of the last
  write, or any of the writes;
- a file that is there need not have its bytes, nor one with its bytes be there.

That is the model of ALICE (Pillai et al., OSDI 2014) for ordered metadata. `unordered` drops the order within a folder,
too, which POSIX would allow and no file system in use does.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path

Tree = dict[str, bytes | None]  # by path; None: a folder
MOST = 200  # states of one moment that are enumerated; beyond it they are drawn


@dataclass(frozen=True)
class Call:
    """One record of recorded_calls.c."""

    kind: str
    path: str
    other: str
    number: int
    data: bytes


def read_calls(log: bytes) -> list[Call]:
    calls, at = [], 0
    while at < len(log):
        end = log.index(b"\n", at)
        kind, *numbers = log[at:end].decode().split()
        path, other, number, size = map(int, numbers)
        parts = []
        at = end + 1
        for length in (path, other, size):
            parts.append(log[at : at + length])
            at += length
        calls.append(Call(kind, parts[0].decode(), parts[1].decode(), number, parts[2]))
    return calls


@dataclass(frozen=True)
class Write:
    """Bytes at an offset; or a new size, where there are none."""

    time: int
    offset: int
    data: bytes | None


@dataclass(frozen=True)
class Change:
    """Of one folder or two, all or nothing: entries by folder and name, with what they lead to then."""

    time: int
    entries: tuple[tuple[int, str, int | None], ...]

    @property
    def folders(self) -> set[int]:
        return {folder for folder, _, _ in self.entries}


@dataclass
class Disk:
    """A folder's files as they were, and what was done to them since. Node 0 is the folder."""

    root: Path
    entries: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    writes: dict[int, list[Write]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    syncs: dict[int, list[int]] = field(default_factory=dict)
    marks: list[tuple[int, str]] = field(default_factory=list)
    end: int = 0

    def __post_init__(self) -> None:
        for path in sorted(self.root.rglob("*")):
            folder, name = self._find(path.parent), path.name
            assert folder is not None
            node = self._new(path.is_dir())
            if path.is_file():
                self.writes[node].append(Write(0, 0, path.read_bytes()))
            self.entries[folder][name] = node
        self.before = {node: dict(names) for node, names in self.entries.items()}

    def record(self, calls: list[Call]) -> None:
        for self.end, call in enumerate(calls, 1):
            getattr(self, f"_{call.kind}")(call)

    def _new(self, folder: bool) -> int:
        node = len(self.entries) + len(self.writes)
        if folder:
            self.entries[node] = {}
        else:
            self.writes[node] = []
        return node

    def _find(self, path: Path | str) -> int | None:
        node: int | None = 0
        for part in Path(path).relative_to(self.root).parts:
            node = self.entries.get(node, {}).get(part) if node is not None else None
        return node

    def _change(self, *entries: tuple[str, int | None]) -> None:
        found = []
        for path, node in entries:
            folder = self._find(Path(path).parent)
            assert folder is not None, path
            found.append((folder, Path(path).name, node))
        for folder, name, node in found:
            if node is None:
                self.entries[folder].pop(name, None)
            else:
                self.entries[folder][name] = node
        self.changes.append(Change(self.end, tuple(found)))

    def _C(self, call: Call) -> None:
        node = self._find(call.path)
        if node is None:
            self._change((call.path, self._new(folder=False)))
        elif call.number:
            self.writes[node].append(Write(self.end, 0, None))

    def _M(self, call: Call) -> None:
        self._change((call.path, self._new(folder=True)))

    def _W(self, call: Call) -> None:
        node = self._find(call.path)
        if node is not None:  # else it was removed while it was open
            self.writes[node].append(Write(self.end, call.number, call.data))

    def _T(self, call: Call) -> None:
        node = self._find(call.path)
        if node is not None:
            self.writes[node].append(Write(self.end, call.number, None))

    def _S(self, call: Call) -> None:
        node = self._find(call.path)
        if node is not None:
            self.syncs.setdefault(node, []).append(self.end)

    def _R(self, call: Call) -> None:
        self._change((call.path, None), (call.other, self._find(call.path)))

    def _L(self, call: Call) -> None:
        self._change((call.other, self._find(call.path)))

    def _U(self, call: Call) -> None:
        self._change((call.path, None))

    def _K(self, call: Call) -> None:
        self.marks.append((self.end, call.other))

    def passed(self, time: int) -> set[str]:
        return {mark for when, mark in self.marks if when <= time}

    def _synced(self, node: int, time: int) -> int:
        return max((when for when in self.syncs.get(node, ()) if when <= time), default=0)

    def states(self, time: int, draw: random.Random, unordered: bool = False) -> Iterator[Tree]:
        """What may be there when the power fails after this call; the first has lost nothing."""
        kept, loose = self._kept(time)
        if unordered:
            chosen = [loose, *([one for one in loose if draw.random() < 0.5] for _ in range(20))]
        else:
            chosen = list(islice(_prefixes(loose), MOST))
            if len(chosen) == MOST:
                chosen = [loose, [], *chosen[1:20], *(_drawn(loose, draw) for _ in range(40))]
        for some in chosen:
            named = self._named([*kept, *some])
            files = {path: node for path, node in named.items() if node in self.writes}
            folders = dict.fromkeys(path for path, node in named.items() if node in self.entries)
            versions = [list(self._versions(node, time, draw)) for node in files.values()]
            for contents in _combinations(versions, draw):
                yield {**folders, **dict(zip(files, contents, strict=True))}

    def _kept(self, time: int) -> tuple[list[Change], list[Change]]:
        """The changes that must be on the disk, and those that may be."""
        kept: list[Change] = []
        loose: list[Change] = []
        bound = {node: self._synced(node, time) for node in self.entries}
        for change in reversed([one for one in self.changes if one.time <= time]):
            if any(change.time < bound[folder] for folder in change.folders):
                kept.insert(0, change)
                for folder in change.folders:  # what came before it in either folder, too
                    bound[folder] = max(bound[folder], change.time)
            else:
                loose.insert(0, change)
        return kept, loose

    def _named(self, changes: list[Change]) -> dict[str, int]:
        """Every path that leads somewhere."""
        entries = {node: dict(self.before.get(node, {})) for node in self.entries}
        for change in changes:
            for folder, name, node in change.entries:
                if node is None:
                    entries[folder].pop(name, None)
                else:
                    entries[folder][name] = node
        found: dict[str, int] = {}
        waiting = [("", 0)]
        while waiting:
            path, folder = waiting.pop()
            for name, node in sorted(entries[folder].items()):
                below = f"{path}/{name}" if path else name
                found[below] = node
                if node in entries:
                    waiting.append((below, node))
        return dict(sorted(found.items()))

    def _versions(self, node: int, time: int, draw: random.Random) -> Iterator[bytes]:
        synced = self._synced(node, time)
        safe = [one for one in self.writes[node] if one.time <= synced]
        loose = [one for one in self.writes[node] if synced < one.time <= time]
        whole = _written(safe + loose)
        yield whole
        if loose:
            durable = _written(safe)
            yield durable
            yield durable + bytes(max(0, len(whole) - len(durable)))
            last = loose[-1]
            if last.data:
                yield _written([*safe, *loose[:-1], Write(last.time, last.offset, last.data[: len(last.data) // 2])])
            if any(one.data is None for one in loose):
                yield b""
            if len(loose) > 2:
                yield _written([*safe, *(one for one in loose if draw.random() < 0.5)])


def _written(writes: list[Write]) -> bytes:
    content = bytearray()
    for write in writes:
        if write.data is None:
            content = content[: write.offset].ljust(write.offset, b"\0")
            continue
        content = content.ljust(write.offset, b"\0")
        content[write.offset : write.offset + len(write.data)] = write.data
    return bytes(content)


def _prefixes(changes: list[Change], blocked: frozenset[int] = frozenset()) -> Iterator[list[Change]]:
    """Every choice of changes that has of each folder only the first ones."""
    if not changes:
        yield []
        return
    first, *rest = changes
    if not first.folders & blocked:
        for more in _prefixes(rest, blocked):
            yield [first, *more]
    for more in _prefixes(rest, blocked | first.folders):
        yield more


def _drawn(changes: list[Change], draw: random.Random) -> list[Change]:
    """One such choice."""
    blocked: set[int] = set()
    chosen, mostly = [], draw.random()
    for change in changes:
        if not change.folders & blocked and draw.random() < mostly**0.2:
            chosen.append(change)
        else:
            blocked |= change.folders
    return chosen


def _combinations(versions: list[list[bytes]], draw: random.Random) -> Iterator[tuple[bytes, ...]]:
    number = 1
    for one in versions:
        number *= len(one)
    if number <= MOST:
        yield from product(*versions)
        return
    yield tuple(one[0] for one in versions)
    for which in range(1, 6):  # of all files alike: none written, all empty ...
        yield tuple(one[min(which, len(one) - 1)] for one in versions)
    for _ in range(20):
        yield tuple(draw.choice(one) for one in versions)


def tree_of(root: Path) -> Tree:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


def lay(root: Path, tree: Tree) -> None:
    """Make the folder hold just that."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for path, content in tree.items():
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
