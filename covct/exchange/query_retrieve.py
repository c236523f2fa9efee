"""An archive that speaks DICOM: asked by C-FIND, it sends by C-GET over the same association, or by C-MOVE to a
listener (PS3.4 C, Study Root)."""

from __future__ import annotations

import ipaddress
import logging
import ssl
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covct.dicom.syntaxes import SYNTAXES
from covct.errors import PeerError, UsageError
from covct.exchange.archive import CT_IMAGES, Fetched, FoundSeries, FoundStudy, Keep
from covct.exchange.audit import Party
from covct.exchange.calling import SILENT_S, addresses_of, associated
from covct.exchange.peers import ANY, Caller, Peer

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association

FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))  # Study Root
PENDING = (0xFF00, 0xFF01)
STORED, DISK_FULL, NOT_ASKED_FOR = 0x0000, 0xA700, 0xA900
WHY_FAILED = {
    0x0122: "it does not do that",
    0x0124: "we may not do that there",
    0xA700: "out of resources",
    0xA701: "out of resources: it cannot count the matches",
    0xA702: "out of resources: it cannot send the images",
    0xA801: "it does not know the AE title that the images are to go to",
    0xA900: "it cannot do with what was asked for",
    0xFE00: "it broke off",
}
UIDS_A_REQUEST = 200  # of a list of instances: 64 characters each
LONGEST_PDU = 1 << 17  # bytes, that the listener of a pull takes
MOST_ASSOCIATIONS = 4  # that an archive may send by at once

log = logging.getLogger("covct")


@dataclass(frozen=True)
class MoveTo:
    """Where an archive sends by C-MOVE: `address` and `port` where this process listens by that title, while it pulls;
    None where another listener does."""

    title: str
    address: str | None = None
    port: int = 0


@dataclass
class _Receiving:
    """The C-GET that is under way: what is wanted of it, and what went wrong with what came."""

    wanted: frozenset[str] = frozenset()
    keep: Keep = field(default=lambda uid, content: None)
    error: OSError | None = None

    def store(self, event: Any) -> int:
        """Answer a C-STORE: success once the instance is on the disk."""
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid not in self.wanted:
            return NOT_ASKED_FOR
        try:
            self.keep(uid, event.encoded_dataset())
        except OSError as error:
            self.error = error
            return DISK_FULL
        return STORED


@dataclass(frozen=True)
class QueryRetrieve:
    """An association with an archive; see `Archive`."""

    peer: Peer
    association: Association
    receiving: _Receiving
    destination: MoveTo | None

    @property
    def party(self) -> Party:
        return Party(self.peer.title, f"{self.peer.host}:{self.peer.port}")

    def studies(self, dates: str, uid: str, keywords: Iterable[str]) -> Iterator[FoundStudy]:
        asked = {"StudyInstanceUID": uid, "ModalitiesInStudy": "CT", **dict.fromkeys(keywords, "")}
        asked |= {"StudyDate": dates}
        for told in self._find("STUDY", asked):
            if found := told.get("StudyInstanceUID"):
                yield FoundStudy(found, told)

    def series(self, study: FoundStudy, keywords: Iterable[str]) -> list[FoundSeries]:
        asked = {
            **dict.fromkeys(keywords, ""),
            "StudyInstanceUID": study.uid,
            "SeriesInstanceUID": "",
            "Modality": "CT",
        }
        return [
            FoundSeries(study.uid, told["SeriesInstanceUID"], {**study.told, **told})
            for told in self._find("SERIES", asked)
            if told.get("SeriesInstanceUID")
        ]

    def instances(self, series: FoundSeries) -> dict[str, str]:
        asked = {
            "StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.uid, "SOPInstanceUID": "",
            "SOPClassUID": "",
        }  # fmt: skip
        return {
            told["SOPInstanceUID"]: told.get("SOPClassUID", "")
            for told in self._find("IMAGE", asked)
            if told.get("SOPInstanceUID") and told.get("SOPClassUID", "") in (*CT_IMAGES, "")
        }

    def fetch(self, series: FoundSeries, uids: Sequence[str], whole: bool, keep: Keep) -> Fetched:
        self.receiving.wanted, self.receiving.keep = frozenset(uids), keep
        lists = [[]] if whole else [uids[i : i + UIDS_A_REQUEST] for i in range(0, len(uids), UIDS_A_REQUEST)]
        ended = [self._retrieve(series, some) for some in lists]
        if self.receiving.error:
            raise self.receiving.error
        elsewhere = self.destination is not None and self.destination.address is None
        said = "; ".join(dict.fromkeys(message for _, message in ended if message))
        return Fetched(said, sum(sent for sent, _ in ended) if elsewhere else None)

    def _find(self, level: str, asked: dict[str, str]) -> list[dict[str, str]]:
        """What matches. All of it at once: the next question over this association waits for the end of this one."""
        answers = []
        self._check_open()
        for status, identifier in self.association.send_c_find(_identifier(level, asked), FIND):
            code = self._status(status, "query")
            if code in PENDING and identifier is not None:
                answers.append({one: _text(identifier, one) for one in asked if one in identifier})
            elif code not in (*PENDING, STORED):
                raise PeerError(f"{self.peer}: it did not answer a query of {level.lower()}: {_why_failed(code)}")
        return answers

    def _retrieve(self, series: FoundSeries, uids: Sequence[str]) -> tuple[int, str]:
        """How many instances were sent, and what the archive said of others; all of a series without `uids`."""
        asked = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.uid}
        identifier = _identifier("IMAGE" if uids else "SERIES", asked)
        if uids:
            identifier.SOPInstanceUID = list(uids)
        sent, code = 0, STORED
        for status, _ in self._answers(identifier):
            code = self._status(status, "retrieval")
            counts = (status.get(f"NumberOf{one}Suboperations") for one in ("Completed", "Warning"))
            sent = sum(int(count or 0) for count in counts)
        return sent, "" if code == STORED else _why_failed(code)

    def _answers(self, identifier: Dataset) -> Iterator[tuple[Dataset, Dataset | None]]:
        self._check_open()
        if self.destination:
            answers = self.association.send_c_move(identifier, self.destination.title, MOVE)
        else:
            answers = self.association.send_c_get(identifier, GET)
        yield from answers

    def _check_open(self) -> None:
        if not self.association.is_established:
            raise PeerError(f"{self.peer}: it ended the association; the next pull goes on from here")

    def _status(self, status: Dataset, what: str) -> int:
        if "Status" not in status:
            raise PeerError(f"{self.peer}: the association was lost during a {what}; the next pull goes on from here")
        return int(status.Status)


@contextmanager
def query_retrieve(
    peer: Peer, ours: str, arrivals: Path, destination: MoveTo | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[QueryRetrieve]:
    """One association with an archive, for all that a pull asks of it.

    Parameters
    ----------
    ours : str
        Our AE title.
    arrivals : Path
        Folder that a listener of ours stores into, as ``STUDY/INSTANCE.dcm``.
    destination : MoveTo, optional
        To retrieve by C-MOVE; without, by C-GET.

    Raises
    ------
    PeerError
        There is none, or it does not offer what is needed, and why.
    """
    from pynetdicom import build_context, build_role, evt

    receiving = _Receiving()
    asked = [build_context(FIND), build_context(MOVE if destination else GET)]
    # A context for each syntax, so that an archive may send what it holds as it holds it; of several it takes one.
    images = [] if destination else [build_context(uid, syntax) for uid in CT_IMAGES for syntax in SYNTAXES]
    roles = [] if destination else [build_role(uid, scp_role=True) for uid in CT_IMAGES]
    handlers = [] if destination else [(evt.EVT_C_STORE, receiving.store)]
    with ExitStack() as stack:
        if destination and destination.address is not None:
            stack.enter_context(_listening(peer, destination, destination.address, arrivals))
        association = stack.enter_context(
            associated(peer, ours, [*asked, *images], roles=roles, handlers=handlers, tls=tls)
        )
        _check_offers(peer, association, destination)
        yield QueryRetrieve(peer, association, receiving, destination)


def _check_offers(peer: Peer, association: Association, destination: MoveTo | None) -> None:
    accepted = {str(one.abstract_syntax) for one in association.accepted_contexts}
    if FIND not in accepted:
        raise PeerError(f"{peer}: it does not answer queries (C-FIND, Study Root) of this AE title")
    if destination and MOVE not in accepted:
        raise PeerError(f"{peer}: it does not offer C-MOVE (Study Root) to this AE title")
    if not destination and GET not in accepted:
        raise PeerError(f"{peer}: it does not offer C-GET (Study Root); wanted --move-to, if it offers C-MOVE")
    sends = {str(one.abstract_syntax) for one in association.accepted_contexts if one.as_scp}
    if not destination and CT_IMAGES[0] not in sends:
        raise PeerError(f"{peer}: it does not send CT images by C-GET (role selection refused); wanted --move-to")


@contextmanager
def _listening(peer: Peer, destination: MoveTo, address: str, arrivals: Path) -> Iterator[None]:
    """A listener for the time of the pull, which nobody but the archive may call."""
    from covct.exchange.acceptor import Terms
    from covct.exchange.listener import listening
    from covct.exchange.received import Inbox

    def heard(event: dict[str, Any]) -> None:
        if event["event"] == "turned-away":
            log.warning("%s called the listener of this pull, and is not %s: turned away", event["address"], peer.host)

    allowed = tuple(Caller(ANY, ipaddress.ip_network(found)) for found in addresses_of(peer))
    terms = Terms(destination.title, allowed, LONGEST_PDU, SILENT_S)
    try:
        opened = listening(address, destination.port, terms, Inbox(arrivals), None, MOST_ASSOCIATIONS, heard)
        with opened as listener:
            thread = threading.Thread(target=listener.serve, name="covct pull", daemon=True)
            thread.start()
            try:
                yield
            finally:
                listener.stop()
                thread.join()
    except UsageError as error:
        raise UsageError(f"--move-to {destination.title}: {str(error).removeprefix('--')}") from error


def _identifier(level: str, asked: dict[str, str]) -> Dataset:
    from pydicom import Dataset

    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in asked.items():
        setattr(identifier, keyword, value)
    return identifier


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _why_failed(code: int) -> str:
    """A status of PS3.4 C.4 in words."""
    if code == 0xB000:
        return "some could not be sent"
    words = WHY_FAILED.get(code) or ("it cannot" if code >> 12 == 0xC else "for no reason that the standard knows")
    return f"{words} (status 0x{code:04X})"
