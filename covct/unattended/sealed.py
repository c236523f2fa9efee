"""Whose a slice is, in the index of headers: sealed with the tree's identifier key, as digests alone can be tried."""

from __future__ import annotations

import hmac
import json
import secrets
from functools import lru_cache
from pathlib import Path

from covct.dicom.patient import Patient
from covct.errors import UsageError
from covct.unattended.logs import identifier_key

TAG_BYTES = 16


def key_of_index(private: Path) -> bytes:
    """For this index only. Without the tree's, one of this run: the next will begin another index."""
    try:
        key = identifier_key(private)
    except (OSError, UsageError):
        key = secrets.token_bytes(32)
    return hmac.digest(key, b"index", "sha256")


@lru_cache(maxsize=4096)
def sealed(values: tuple[str, ...], key: bytes) -> str:
    """Values that only the key opens; equal ones look alike, as rows are shared by what they hold."""
    plain = json.dumps(values).encode()
    tag = hmac.digest(key, b"tag" + plain, "sha256")[:TAG_BYTES]
    return (tag + _crossed(plain, key, tag)).hex()


@lru_cache(maxsize=4096)
def unsealed(text: str, key: bytes) -> Patient:
    both = bytes.fromhex(text)
    return Patient(*json.loads(_crossed(both[TAG_BYTES:], key, both[:TAG_BYTES])))


def _crossed(text: bytes, key: bytes, tag: bytes) -> bytes:
    """The text with the stream of bytes that belongs to key and tag: once seals, twice opens."""
    blocks = (hmac.digest(key, tag + n.to_bytes(4, "big"), "sha256") for n in range(-(-len(text) // 32)))
    return bytes(one ^ other for one, other in zip(text, b"".join(blocks), strict=False))
