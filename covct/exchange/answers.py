"""What an archive says of an object: taken, refused, or to be sent again; one table for C-STORE and STOW-RS.

The numbers are statuses of C-STORE (PS3.7 annex C, PS3.4 B.2.3), which STOW-RS repeats as Failure Reason (0008,1197).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from covct.errors import PeerError

State = Literal["delivered", "refused", "failed"]
SUCCESS, DUPLICATE = 0x0000, 0x0111
WARNINGS = {
    0xB000: "stored with elements coerced",
    0xB006: "stored with elements discarded",
    0xB007: "stored, though it does not match its SOP class",
}
REFUSALS = {
    0x0105: "an attribute does not exist there",
    0x0106: "an attribute's value is invalid",
    0x0117: "the SOP Instance UID is invalid",
    0x0120: "an attribute is missing",
    0x0122: "it does not support the SOP class",
    0x0124: "we are not authorized to store there",
    0xC122: "it does not support the transfer syntax",
}
REFUSED_RANGES = (
    (0xA900, 0xA9FF, "it says the object does not match its SOP class"),
    (0xC000, 0xCFFF, "it cannot process the object"),
)
FAILURES = {0x0110: "processing failed there", 0x0213: "its resources are used up", 0xA700: "it is out of resources"}


@dataclass(frozen=True)
class Loaded:
    """An object as it is sent.

    Attributes
    ----------
    file, sha256 : str
        Its name in the folder of the result, and the hash of `content`.
    content : bytes
        The whole file.
    """

    file: str
    sha256: str
    study: str
    series: str
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    content: bytes


@dataclass(frozen=True)
class Answer:
    """What became of one object.

    Attributes
    ----------
    state : str
        delivered; refused: sent again as it is, it is refused again; failed: another time may be better.
    reason : str
        In words; of what was delivered, a remark.
    was_there : bool
        It has another one under this UID, or this one already.
    """

    state: State
    reason: str = ""
    was_there: bool = False


Store = Callable[[Iterable[Loaded]], Iterator[tuple[Loaded, Answer]]]


class NotReached(PeerError):
    """A destination takes nothing at the moment.

    Attributes
    ----------
    wait_s : float or None
        How long it asks to be left alone.
    """

    def __init__(self, why: str, wait_s: float | None = None):
        super().__init__(why)
        self.wait_s = wait_s


def of_status(status: int) -> Answer:
    """The answer that a status, or a failure reason, means."""
    if status == SUCCESS or status in WARNINGS:
        return Answer("delivered", WARNINGS.get(status, ""))
    if status == DUPLICATE:
        return Answer("delivered", "it was there before", was_there=True)
    code = f" (status {status:04X})"
    for low, high, words in REFUSED_RANGES:
        if low <= status <= high:
            return Answer("refused", REFUSALS.get(status, words) + code)
    if status in REFUSALS:
        return Answer("refused", REFUSALS[status] + code)
    known = FAILURES.get(0xA700 if 0xA700 <= status <= 0xA7FF else status, "it failed there")
    return Answer("failed", known + code)
