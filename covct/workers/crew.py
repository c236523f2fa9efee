"""The line to Dask: to a scheduler and workers of our own on this machine, or to a scheduler that is running somewhere.

Whoever can talk to a scheduler or a worker can run code as the user of the workers, and of the coordinator. Our own
listen on the loopback alone, and take only who has the keys that were made for them.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from covct.errors import DeviceMissing, UsageError, WorkersLost
from covct.workers.shares import Share, nanny_options

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.security import Security

log = logging.getLogger("covct")
CONNECT_S = 10.0
PATIENCE_S = 600.0  # for a scheduler that is not there, or a first worker
LONGEST_PAUSE_S = 30.0  # between two tries to reach one
ANSWER_S = 60.0  # a scheduler that is paused or swapped out takes connections, and says nothing
CLOSE_S = 2.0  # before the process that looks after this one loses patience
TLS_FILES = ("ca.crt", "tls.crt", "tls.key")  # as Kubernetes names them in a secret
# Dask's own: no pages over HTTP, which ask nobody who they are, and none of what it measures to show there.
SETTINGS = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.work-stealing": False,
}
TOLD, ANSWERED, ENDED = "told", "answered", "ended"


@dataclass
class Crew:
    """Workers, and the way to them. To be opened before anything else is asked of it.

    Attributes
    ----------
    shares : list of Share
        Of workers of our own; empty where a scheduler is running.
    address : str
        Of that scheduler.
    tls : Path or None
        A folder of `TLS_FILES`.
    heard : SimpleQueue of (str, str, object)
        TOLD, token and events; ANSWERED, token and bytes; or ENDED, token and why it ended without an answer.
    """

    shares: list[Share] = field(default_factory=list)
    address: str = ""
    tls: Path | None = None
    heard: SimpleQueue[tuple[str, str, Any]] = field(default_factory=SimpleQueue)
    topic: str = ""
    _client: Client | None = None
    _cluster: Any = None

    @property
    def is_open(self) -> bool:
        return self._client is not None and self._client.status == "running"

    @property
    def is_local(self) -> bool:
        return bool(self.shares)

    def open(self) -> None:
        """Start workers, or connect, unless that is done; and hear of the topic.

        Raises
        ------
        WorkersLost
            No scheduler is answering.
        DeviceMissing
            Dask distributed is not installed.
        """
        import_distributed()
        from distributed import Client

        try:
            if self.is_open:
                pass
            elif self.is_local:
                self._cluster = _local(self.shares)
                self._client = Client(self._cluster, set_as_default=False)
            else:
                options = {"security": security_of(self.tls)} if self.tls else {}
                self._client = Client(self.address, timeout=CONNECT_S, set_as_default=False, **options)
            assert self._client is not None
            self._client.subscribe_topic(self.topic, self._hear)
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            why = type(error.__cause__ or error).__name__
            raise WorkersLost(f"no Dask scheduler is answering at {self.address or 'this machine'} ({why})") from error

    def close(self) -> None:
        """Let the workers go; our own end."""
        for one in (self._client, self._cluster):
            with suppress(Exception):
                one and one.close(timeout=CLOSE_S)
        self._client = self._cluster = None

    def workers(self) -> dict[str, Mapping[str, Any]]:
        """What the scheduler says of each worker, by its address.

        Raises
        ------
        OSError
            It is not answering, or not within `ANSWER_S`.
        """
        if not self.is_open:
            raise ConnectionError("the scheduler is gone")
        client = self._client
        assert client is not None
        # Not `scheduler_info`: what that gives, another thread of Dask replaces now and then, without the workers.
        try:
            return dict(client.sync(client.scheduler.identity, callback_timeout=ANSWER_S)["workers"])
        except TimeoutError as error:  # Dask's own says nothing where its event loop is the first to lose patience
            raise TimeoutError(f"the scheduler has not answered for {ANSWER_S:g} s") from error

    def submit(self, function: Callable[..., None], token: str, worker: str, *arguments: Any) -> Future:
        """Have a worker call the function with the arguments, the topic and the token; `heard` is told how it ends."""
        assert self._client is not None
        future: Future = self._client.submit(
            function, *arguments, self.topic, token,
            key=f"covct-{token}", workers=[worker], allow_other_workers=False, pure=False, retries=0,
        )  # fmt: skip
        future.add_done_callback(lambda done: self.heard.put((ENDED, token, _why(done))))
        return future

    def end(self, worker: str) -> None:
        """Kill a worker's process; its nanny starts another one. Nobody waits for it."""

        def kill(client: Any) -> None:
            with suppress(Exception):
                client.restart_workers([worker], timeout=CONNECT_S, raise_for_error=False)

        threading.Thread(target=kill, args=(self._client,), daemon=True).start()

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        told = event[1]
        self.heard.put((TOLD, told["token"], json.loads(told["events"])))
        if told["answer"]:
            self.heard.put((ANSWERED, told["token"], told["answer"]))


def _why(future: Future) -> str:
    """The kind of error that a call ended with, or what Dask says of its state."""
    return type(future.exception()).__name__ if future.status == "error" else str(future.status)


def import_distributed() -> None:
    """Import Dask distributed; what it says of its own stays with it: a log of ours names no addresses of others'.

    Raises
    ------
    DeviceMissing
        It is not installed.
    """
    try:
        import dask
        import distributed
    except ModuleNotFoundError as error:
        raise DeviceMissing(
            f"workers need Dask, and {error.name} is not installed: pip install 'covct[workers]'"
        ) from error
    dask.config.set(SETTINGS)
    assert distributed
    for name in ("distributed", "distributed.client", "distributed.scheduler", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _local(shares: list[Share]) -> Any:
    """A scheduler in this process and a worker process for each share, on the loopback, with keys of their own."""
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster
    from distributed.security import Security

    try:
        security = Security.temporary()
    except ImportError as error:
        raise DeviceMissing("workers need the package cryptography: pip install 'covct[workers]'") from error
    common = {"host": "127.0.0.1", "protocol": "tls://", "security": security}
    scheduler = {
        **common, "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0", "allowed_failures": 0,
    }  # fmt: skip
    workers = {
        number: {"cls": Nanny, "options": {**common, **nanny_options(share, number)}}
        for number, share in enumerate(shares)
    }
    return SpecCluster(
        workers=workers, scheduler={"cls": Scheduler, "options": scheduler}, security=security, silence_logs=False
    )


def security_of(tls: Path) -> Security:
    """Dask's own TLS, both sides with certificates, from the files of a folder."""
    from distributed.security import Security

    missing = [name for name in TLS_FILES if not (tls / name).is_file()]
    if missing:
        raise UsageError(f"--workers-tls {tls}: no {', '.join(missing)} there; wanted {', '.join(TLS_FILES)}")
    authority, certificate, key = (str(tls / name) for name in TLS_FILES)
    ours = {f"tls_{role}_{part}": path for role in ("client", "worker", "scheduler")
            for part, path in (("cert", certificate), ("key", key))}  # fmt: skip
    return Security(tls_ca_file=authority, require_encryption=True, **ours)


def check_address(address: str, tls: Path | None) -> str:
    """A scheduler's address, `tcp://host:port`, or `tls://` with certificates.

    Raises
    ------
    UsageError
    """
    try:
        parts = urlsplit(address)
        whole = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port
    except ValueError:
        whole = None
    if not whole:
        raise UsageError(f"{address}: wanted the address of a Dask scheduler, such as tcp://127.0.0.1:8786")
    if (parts.scheme == "tls") != (tls is not None):
        raise UsageError(f"{address}: tls:// and --workers-tls go together")
    return address
