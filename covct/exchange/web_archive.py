"""An archive that speaks DICOMweb: searched by QIDO-RS, it sends by WADO-RS (PS3.18 10.6, 10.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from covct.disk.archives import LARGEST_FILE
from covct.errors import PeerError
from covct.exchange.archive import CT_IMAGES, Fetched, FoundSeries, FoundStudy, Keep
from covct.exchange.audit import Party

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from requests import Response, Session

PAGE = 500  # matches that are asked for at once
TIMEOUT_S = (20.0, 600.0)  # to connect; between two pieces of an answer: an archive may fetch from a tape first
AS_IT_IS = 'multipart/related; type="application/dicom"; transfer-syntax=*'
BUSY = {408, 429, 500, 502, 503, 504}
ATTEMPTS = 3  # of a search; and the first instances of a series, if each is refused
WAIT_S = 1.0  # before the second attempt at a request
PIECE = 1024**2


class NoAnswer(PeerError):
    """Nobody answers, or not in time."""


@dataclass
class _Heads:
    """What the head of the last answer said: `has_more` where a search has more matches than it gives at once."""

    has_more: bool = False

    def keep(self, answer: Response, *_: Any, **__: Any) -> Response:
        self.has_more = answer.headers.get("Warning", "").lstrip().startswith("299")  # PS3.18 8.3.4.4
        return answer


@dataclass(frozen=True)
class WebArchive:
    """A DICOMweb service; see `Archive`. `session` brings what authenticates us."""

    url: str
    session: Session = field(repr=False)
    client: DICOMwebClient = field(repr=False)
    heads: _Heads = field(repr=False)

    @property
    def party(self) -> Party:
        return Party(self.url, urlsplit(self.url).netloc)

    def studies(self, dates: str, uid: str, keywords: Iterable[str]) -> Iterator[FoundStudy]:
        asked = {"ModalitiesInStudy": "CT", "StudyDate": dates, "StudyInstanceUID": uid}
        for told in self._search(self.client.search_for_studies, "StudyInstanceUID", asked, keywords):
            yield FoundStudy(told["StudyInstanceUID"], told)

    def series(self, study: FoundStudy, keywords: Iterable[str]) -> list[FoundSeries]:
        found = self._search(
            self.client.search_for_series, "SeriesInstanceUID", {"Modality": "CT"}, keywords, study.uid
        )  # fmt: skip
        return [FoundSeries(study.uid, told["SeriesInstanceUID"], {**study.told, **told}) for told in found]

    def instances(self, series: FoundSeries) -> dict[str, str]:
        found = self._search(
            self.client.search_for_instances, "SOPInstanceUID", {}, ("SOPClassUID",), series.study_uid, series.uid
        )
        classes = {told["SOPInstanceUID"]: told.get("SOPClassUID", "") for told in found}
        return {uid: sop_class for uid, sop_class in classes.items() if sop_class in (*CT_IMAGES, "")}

    def fetch(self, series: FoundSeries, uids: Sequence[str], whole: bool, keep: Keep) -> Fetched:
        """One request an instance, over one connection: no more than one is in memory."""
        refused: list[str] = []
        unanswered = 0  # in a row
        for asked, uid in enumerate(uids):
            if unanswered == ATTEMPTS or len(refused) == asked == ATTEMPTS:  # nothing comes any more, or at all
                break
            try:
                content = self._instance(f"{self.url}/studies/{series.study_uid}/series/{series.uid}/instances/{uid}")
            except PeerError as error:
                refused.append(str(error).removeprefix(f"{self.url}: "))
                unanswered = unanswered + 1 if isinstance(error, NoAnswer) else 0
            else:
                keep(uid, content)
                unanswered = 0
        return Fetched("; ".join(dict.fromkeys(refused)))

    def _search(
        self, search: Callable[..., list[Any]], key: str, asked: dict[str, str], keywords: Iterable[str], *within: str
    ) -> Iterator[dict[str, str]]:
        """Every match, page by page, each once: some services know no pages and answer all of it each time."""
        keywords = (*asked, *keywords, key)
        filters = {name: value for name, value in asked.items() if value}
        seen: set[str] = set()
        while True:
            with _sentences(self.url):
                answers = search(*within, search_filters=filters, fields=list(keywords), limit=PAGE, offset=len(seen))
                found = [_told(one, keywords) for one in answers]
            fresh = [told for told in found if told.get(key, "") not in {"", *seen}]
            yield from fresh
            seen |= {told[key] for told in fresh}
            if not fresh or (len(answers) < PAGE and not self.heads.has_more):
                return

    def _instance(self, place: str) -> bytes:
        """A file as the service has it; asked for again where the service has too much to do."""
        for wait_s in (WAIT_S, 2 * WAIT_S, None):
            with (
                _sentences(self.url),
                self.session.get(place, headers={"Accept": AS_IT_IS}, timeout=TIMEOUT_S, stream=True) as answer,
            ):
                if answer.status_code == 200:
                    return _only_part(_body(answer, self.url), answer.headers.get("Content-Type", ""), self.url)
                if answer.status_code not in BUSY or wait_s is None:
                    break
            sleep(wait_s)
        raise PeerError(f"{self.url}: {_why_refused(answer.status_code)}")


def web_archive(url: str, session: Session) -> WebArchive:
    """A DICOMweb service by its URL, which ends where ``/studies`` begins."""
    from dicomweb_client import DICOMwebClient

    url = url.rstrip("/")
    heads = _Heads()
    client = DICOMwebClient(url, session=session, timeout=TIMEOUT_S, callback=heads.keep, permissive_uid=True)
    client.set_http_retry_params(max_attempts=ATTEMPTS, wait_exponential_multiplier=round(500 * WAIT_S))
    return WebArchive(url, session, client, heads)


@contextmanager
def _sentences(url: str) -> Iterator[None]:
    """Make a sentence of whatever a service answers, or does not."""
    import requests

    try:
        yield
    except requests.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        raise PeerError(f"{url}: {_why_refused(code)}") from error
    except requests.exceptions.SSLError as error:
        raise NoAnswer(f"{url}: its certificate is refused, or it speaks no TLS") from error
    except requests.Timeout as error:
        raise NoAnswer(f"{url}: it did not answer in time") from error
    except requests.ConnectionError as error:
        unknown = "NameResolution" in repr(error)
        told = "the host name does not resolve" if unknown else "nobody answers there, or the connection was lost"
        raise NoAnswer(f"{url}: {told}") from error
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PeerError(f"{url}: it does not answer as DICOMweb does; wanted the URL before /studies") from error


def _why_refused(code: int) -> str:
    if code in (401, 403):
        return f"it wants to know who asks, or does not let us (HTTP {code})"
    if code in (404, 410):
        return f"it has no such thing there (HTTP {code})"
    if code == 406:
        return "it does not hand out files as it has them (HTTP 406)"
    return f"it failed (HTTP {code})" if code >= 500 else f"it refused (HTTP {code})"


def _told(answer: Mapping[str, Any], keywords: Iterable[str]) -> dict[str, str]:
    """Values of an object of the DICOM JSON Model (PS3.18 F.2) as text, by keyword; what it does not hold is absent."""
    from pydicom.datadict import tag_for_keyword

    told = {}
    for keyword in keywords:
        element = answer.get(f"{tag_for_keyword(keyword):08X}")
        if element is not None:
            values = element.get("Value") or [""]
            told[keyword] = str(values[0]).strip() if len(values) == 1 else "\\".join(map(str, values))
    return told


def _body(answer: Response, url: str) -> bytes:
    """All of an answer, up to what one file may have."""
    body = bytearray()
    for piece in answer.iter_content(PIECE):
        body += piece
        if len(body) > LARGEST_FILE + PIECE:
            raise PeerError(f"{url}: an instance is larger than {LARGEST_FILE / 1024**3:g} GiB")
    return bytes(body)


def _only_part(body: bytes, content_type: str, url: str) -> bytes:
    """The one part of an answer in parts (RFC 2046 5.1); an answer of ``application/dicom`` is the file itself."""
    from email.message import Message

    head = Message()
    head["Content-Type"] = content_type
    boundary = head.get_boundary()
    if head.get_content_type() == "application/dicom":
        return _file(body, url)
    if head.get_content_type() != "multipart/related" or not boundary:
        raise PeerError(f"{url}: it sent {head.get_content_type()}, wanted a DICOM file")
    edge = b"--" + boundary.encode()
    begin = body.find(b"\r\n\r\n", body.find(edge))
    end = body.rfind(b"\r\n" + edge)
    if begin < 0 or end < begin:
        raise PeerError(f"{url}: the answer was cut short")
    return _file(body[begin + 4 : end], url)


def _file(content: bytes, url: str) -> bytes:
    if content[128:132] != b"DICM":
        raise PeerError(f"{url}: what it sent is no DICOM file")
    return content
