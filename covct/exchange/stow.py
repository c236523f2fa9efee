"""Objects sent by STOW-RS (PS3.18 10.5), and what stands inside the answers: also one of 200 may tell of failures."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from covct.errors import UsageError
from covct.exchange.answers import Answer, Loaded, NotReached, Store, of_status
from covct.exchange.destinations import Destination
from covct.exchange.tls import why_not_trusted
from covct.exchange.web_session import session_of
from covct.visible import span

if TYPE_CHECKING:
    import pydicom
    import requests

CONNECT_S, ANSWER_S = 20.0, 300.0
MOST_OBJECTS, MOST_BYTES = 32, 64 << 20  # of one request
LONGEST_WAIT_S = 3600.0  # that a Retry-After is obeyed for
SKEW_S = 300.0
WITH_ANSWERS = (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT)
CLIENT_ERRORS = {  # of one request, not of the service
    HTTPStatus.BAD_REQUEST: "it does not understand the object",
    HTTPStatus.CONFLICT: "it stored nothing, and does not say why",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the object is too large for it",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "it does not take such objects",
    HTTPStatus.UNPROCESSABLE_ENTITY: "it cannot process the object",
}


@contextmanager
def stow(destination: Destination) -> Iterator[Store]:
    """What sends objects to a DICOMweb service, several in a request.

    Raises
    ------
    NotReached
        It takes nothing at the moment, and why.
    """
    from dicomweb_client import DICOMwebClient

    answers: list[requests.Response] = []

    def keep(answer: requests.Response, *_: Any, **__: Any) -> requests.Response:
        answers[:] = [answer]
        return answer

    access = destination.access
    logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)  # what it says is said here, in a sentence
    try:
        opened = session_of(
            destination.url, access.authorities, access.certificate, access.key, credentials=access.credentials()
        )
        with opened as session:
            session.max_redirects = 0  # a POST that is led elsewhere becomes a GET there
            client = DICOMwebClient(
                destination.url, session, callback=keep, timeout=(CONNECT_S, ANSWER_S),
                headers={"Accept": "application/dicom+json"},
            )  # fmt: skip
            client.set_http_retry_params(retry=False)  # a sender of its own pauses longer, and says so
            yield lambda objects: _sent(client, answers, destination, objects)
    except UsageError as error:  # a token that is being exchanged, a certificate of ours that has expired since
        raise NotReached(str(error)) from error


def _sent(
    client: Any, answers: list[Any], destination: Destination, objects: Iterable[Loaded]
) -> Iterator[tuple[Loaded, Answer]]:
    for batch in _batches(objects):
        told = _store(client, answers, destination, batch)
        if told is None and len(batch) > 1:  # one of them may be at fault: which, shows by itself
            for one in batch:
                yield one, _alone(_store(client, answers, destination, [one]), one, answers[0])
            continue
        for one in batch:
            yield one, _alone(told, one, answers[0])


def _alone(told: dict[str, Answer] | None, one: Loaded, answer: requests.Response) -> Answer:
    if told is None:
        status = answer.status_code
        return Answer("refused", f"{CLIENT_ERRORS[HTTPStatus(status)]} (HTTP {status})")
    silent = Answer("failed", f"its answer (HTTP {answer.status_code}) does not say that it was stored")
    return told.get(one.sop_instance, silent)


def _batches(objects: Iterable[Loaded]) -> Iterator[list[Loaded]]:
    batch: list[Loaded] = []
    size = 0
    for one in objects:
        if batch and (len(batch) == MOST_OBJECTS or size + len(one.content) > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.content)
    if batch:
        yield batch


def _store(client: Any, answers: list[Any], destination: Destination, batch: list[Loaded]) -> dict[str, Answer] | None:
    """One request: what became of each object by its SOP Instance UID; None where the request itself was refused."""
    import requests
    from pydicom import dcmread

    answers.clear()
    try:
        client.store_instances([dcmread(BytesIO(one.content)) for one in batch])
    except requests.HTTPError:
        pass  # what stands in the answer is what counts
    except requests.TooManyRedirects as error:
        raise NotReached("it leads to another address; wanted that of the DICOMweb service itself") from error
    except requests.RequestException as error:
        if not answers:
            raise NotReached(_why_not(error, destination)) from error
    except Exception:  # of the library's reading of an answer, which is read here once more
        if not answers:
            raise
    [answer] = answers
    told = _inside(answer) if answer.status_code in WITH_ANSWERS else None
    if told:
        return told
    if answer.status_code in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
        return {}
    if answer.status_code in CLIENT_ERRORS:
        return None
    raise NotReached(_of_service(answer), _wait_s(answer))


def _inside(answer: requests.Response) -> dict[str, Answer]:
    """What an answer says of each object (PS3.18 table 10.5.3); empty where it says nothing that can be read."""
    import pydicom

    kind = answer.headers.get("Content-Type", "").split(";")[0].strip().lower()
    try:
        if kind.endswith("json"):
            said = answer.json()
            dataset = pydicom.Dataset.from_json(said[0] if isinstance(said, list) else said)
        elif kind.endswith("xml"):
            from xml.etree.ElementTree import fromstring

            from dicomweb_client.web import _load_xml_dataset

            dataset = _load_xml_dataset(fromstring(answer.content))
        else:
            return {}
        return _told(dataset)
    except Exception:  # whatever it holds is not what the standard wants, and may quote anything
        return {}


def _told(dataset: pydicom.Dataset) -> dict[str, Answer]:
    told = {str(item.ReferencedSOPInstanceUID): _stored(item) for item in dataset.get("ReferencedSOPSequence", [])}
    for item in dataset.get("FailedSOPSequence", []):
        answer = of_status(int(item.get("FailureReason", 0x0110)))
        if answer.state == "delivered" and not answer.was_there:
            answer = Answer("failed", "it names the object among the failed, without a reason")
        told[str(item.ReferencedSOPInstanceUID)] = answer
    return told


def _stored(item: pydicom.Dataset) -> Answer:
    warned = item.get("WarningReason")
    return of_status(int(warned)) if warned in (0xB000, 0xB006, 0xB007) else Answer("delivered")


def _of_service(answer: requests.Response) -> str:
    status = answer.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"it does not accept our credentials (HTTP {status}){_skew(answer)}"
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE):
        return f"nothing takes objects at this address (HTTP {status}); wanted that of the DICOMweb service"
    return f"it takes nothing at the moment (HTTP {status})"


def _skew(answer: requests.Response) -> str:
    """That the clocks disagree, where they do: tokens and certificates are then refused for no other reason."""
    try:
        theirs = parsedate_to_datetime(answer.headers["Date"])
        apart = (datetime.now(UTC) - theirs.astimezone(UTC)).total_seconds()
    except (KeyError, ValueError, TypeError):
        return ""
    return f"; its clock and ours are {span(abs(apart))} apart" if abs(apart) > SKEW_S else ""


def _wait_s(answer: requests.Response) -> float | None:
    told = answer.headers.get("Retry-After", "")
    return min(float(told), LONGEST_WAIT_S) if told.isascii() and told.isdecimal() else None


def _why_not(error: requests.RequestException, destination: Destination) -> str:
    """Why there was no answer, in words that hold no credentials: the library's texts quote addresses and objects."""
    import requests

    host = urlsplit(destination.url).hostname or ""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return why_not_trusted(cause)
        if isinstance(cause, socket.gaierror):
            return f"the host name {host} does not resolve: {cause.strerror}"
        if isinstance(cause, ConnectionError) and cause.strerror:
            return f"no connection to {host}: {cause.strerror}"
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection to {host} within {CONNECT_S:g} s"
    if isinstance(error, requests.Timeout):
        return f"no answer within {ANSWER_S:g} s"
    return f"the connection to {host} failed ({type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it comes from, as requests and urllib3 wrap it: in arguments, reasons, causes and contexts."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [getattr(one, "reason", None), one.__cause__, one.__context__, *one.args]
