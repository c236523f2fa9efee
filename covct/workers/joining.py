"""Workers of this machine for a scheduler elsewhere: started, started again when they die, and joined again when it
was away."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from covct.errors import WorkersLost
from covct.workers.crew import CONNECT_S, LONGEST_PAUSE_S, PATIENCE_S, import_distributed, security_of
from covct.workers.shares import Share, nanny_options

log = logging.getLogger("covct")


def join(address: str, shares: list[Share], tls: Path | None) -> None:
    """Work for the scheduler until this process is stopped.

    Raises
    ------
    WorkersLost
        It was not answering for `PATIENCE_S`.
    """
    import_distributed()
    asyncio.run(_joined(address, shares, tls))


async def _joined(address: str, shares: list[Share], tls: Path | None) -> None:
    """One stay after the other, with pauses between them that grow while the scheduler is away."""
    loop, pause = asyncio.get_running_loop(), 1.0
    away_since = loop.time()
    while True:
        if await _is_answering(address) and await _stay(address, shares, tls):
            pause, away_since = 1.0, loop.time()
            log.warning("the scheduler %s is gone; trying to reach it again", address)
        if loop.time() - away_since > PATIENCE_S:
            raise WorkersLost(f"no Dask scheduler has been answering at {address} for {PATIENCE_S:g} s")
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


async def _is_answering(address: str) -> bool:
    parts = urlsplit(address)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, parts.port), CONNECT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _stay(address: str, shares: list[Share], tls: Path | None) -> bool:
    """Work as long as the scheduler is there. Returns whether it took us: something else may be listening there."""
    from distributed import Nanny
    from distributed.utils import get_ip

    host = get_ip(urlsplit(address).hostname)  # where the scheduler is reached from: the loopback, if it is there
    security = {"security": security_of(tls)} if tls else {}
    name = f"{socket.gethostname()}-{{}}"
    nannies = [
        Nanny(address, host=host, **security, **nanny_options(share, name.format(number)))
        for number, share in enumerate(shares)
    ]
    joined = False
    try:
        await asyncio.gather(*nannies)
        joined = True
        log.warning("%d workers have joined %s", len(nannies), address)
        await asyncio.wait([asyncio.ensure_future(nanny.finished()) for nanny in nannies],
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
    except (OSError, RuntimeError, ValueError) as error:
        log.warning("joining %s failed (%s)", address, type(error).__name__)
    finally:
        with suppress(Exception):
            await asyncio.gather(*(nanny.close(timeout=5) for nanny in nannies), return_exceptions=True)
    return joined
