"""A .keras file to arrays by name: nothing of it is run, followed, or taken at its word."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np

ARRAYS = "model.weights.h5"
LARGEST_FILE = 1024**3  # bytes; the shipped networks have 8 million
DEEPEST, MOST_OBJECTS = 8, 10_000


def read_arrays(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Read the arrays of a file that keras' `save` wrote, by their place in it, such as ``layers/conv2d/vars/0``.

    The hash is that of the very bytes that are then parsed: the file may be exchanged after its card was checked.

    Raises
    ------
    ValueError, KeyError, OSError
        Another hash; not such a file; or one with what our networks never have: links, arrays stored elsewhere or
        compressed, arrays that declare more than is stored, other numbers than finite floats.
    """
    contents = _read(path)
    if hashlib.sha256(contents).hexdigest() != sha256:
        raise ValueError("its sha256 is no longer the card's")
    try:
        with zipfile.ZipFile(BytesIO(contents)) as archive:
            member = archive.getinfo(ARRAYS)
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(contents):
                raise ValueError(f"{ARRAYS} is compressed, wanted it stored as keras does")
            with archive.open(member) as stream:
                inner = stream.read(member.file_size)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is not a .keras file: {error}") from error
    return _parsed(inner)


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a bare HDF5 file of weights, as published for well-known networks, with the same caution.

    Raises
    ------
    ValueError, KeyError, OSError
        As `read_arrays`, the hash aside.
    """
    return _parsed(_read(path))


def _read(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it has {path.stat().st_size} bytes, at most {LARGEST_FILE} are read")
    return path.read_bytes()


def _parsed(contents: bytes) -> dict[str, np.ndarray]:
    with h5py.File(BytesIO(contents), "r") as file:
        found: dict[str, np.ndarray] = {}
        for name, array in _arrays(file, "", DEEPEST, {_address(file)}):
            found[name] = array
            if sum(one.nbytes for one in found.values()) > len(contents):
                raise ValueError("it holds more arrays than bytes: some lie in the same place")
    return found


def _arrays(group: h5py.Group, path: str, depth: int, met: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Each group and each array once: hard links can make 35 KB a graph with more ways through it than years."""
    if not depth:
        raise ValueError(f"groups are nested deeper than {DEEPEST}")
    for name in group:
        place, link = f"{path}{name}", group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):  # soft and external links lead elsewhere, into other files too
            raise ValueError(f"{place} is a {type(link).__name__}, wanted an array")
        item = group[name]
        address = _address(item)
        if address in met:
            raise ValueError(f"{place} appears twice, under two names")
        met.add(address)
        if len(met) > MOST_OBJECTS:
            raise ValueError(f"it holds more than {MOST_OBJECTS} groups and arrays")
        if isinstance(item, h5py.Group):
            yield from _arrays(item, f"{place}/", depth - 1, met)
        else:
            yield place, _checked(item, place)


def _address(item: h5py.Group | h5py.Dataset | h5py.Datatype) -> int:
    """Where it lies in the file: the same for all its names."""
    return int(h5py.h5o.get_info(item.id).addr)


def _checked(item: h5py.Dataset | h5py.Datatype, place: str) -> np.ndarray:
    if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":  # objects and references are run or followed
        raise ValueError(f"{place} is not an array of floats")
    if item.is_virtual or item.external:
        raise ValueError(f"{place} is stored in another file")
    if item.id.get_create_plist().get_nfilters():  # filters may be plug-ins, which are programs
        raise ValueError(f"{place} is compressed or filtered, wanted it plain")
    if item.nbytes > item.id.get_storage_size():
        raise ValueError(f"{place} declares {item.nbytes} bytes, {item.id.get_storage_size()} are stored")
    array = item[()]
    if not np.isfinite(array).all():
        raise ValueError(f"{place} holds numbers that are not finite")
    return np.asarray(array)
