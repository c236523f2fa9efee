"""Workers beside this process: `--workers` and `--scheduler` of a scan and a watch, and `covct worker`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from covct.commands.options import DeviceOption, Weights, WorkersTls, mib
from covct.errors import UsageError

if TYPE_CHECKING:
    from covct.networks.network import Networks
    from covct.unattended.one_pass import Hands
    from covct.unattended.plan import Order
    from covct.workers.crew import Crew


def crew_of(
    order: Order, workers: int | None, scheduler: str | None, tls: Path | None, device: str, require_gpu: bool
) -> Crew | None:
    """The workers that are asked for; None where this process works by itself."""
    if workers is None and scheduler is None:
        if tls:
            raise UsageError("--workers-tls goes with --scheduler")
        return None
    from covct.networks.devices import parse_wish
    from covct.workers.crew import Crew, check_address
    from covct.workers.shares import divide

    if workers is not None and scheduler is not None:
        raise UsageError("--workers starts workers here, --scheduler uses those that are running: wanted one of both")
    if scheduler is not None:
        return Crew(address=check_address(scheduler, tls), tls=tls)
    assert workers is not None
    return Crew(divide(workers, parse_wish(device), order.runtime, order.memory_mib, require_gpu))


@contextmanager
def hands_of(
    crew: Crew | None, load: Callable[[], Networks], timeout_s: float, device: str, require_gpu: bool
) -> Iterator[Hands | None]:
    """What does the work of a pass: the crew, if there is one."""
    if crew is None:
        yield None
        return
    from covct.networks.devices import parse_wish
    from covct.workers.side_by_side import team

    on_gpu = not crew.is_local and (require_gpu or parse_wish(device).kind == "gpu")
    with team(crew, load, timeout_s, on_gpu) as working:
        yield working.hands


def worker_command(
    scheduler: Annotated[
        str, typer.Argument(help="Address of a Dask scheduler: tcp://host:port or tls://host:port.", show_default=False)
    ],
    workers: Annotated[
        int, typer.Option(help="Worker processes on this machine, with a GPU each if there are any.", min=1)
    ] = 1,
    weights: Weights = None,
    device: DeviceOption = "auto",
    memory_limit: Annotated[
        float | None,
        typer.Option(help="Memory for all, in GiB. Default: all there is.", min=0, show_default=False),
    ] = None,
    tls: WorkersTls = None,
) -> None:
    """Work for scans and watches that were started with --scheduler, until stopped."""
    from covct.disk.signals import stoppable
    from covct.networks import runtimes
    from covct.networks.cards import default_weights_folder
    from covct.networks.devices import parse_wish
    from covct.workers.crew import check_address
    from covct.workers.joining import join
    from covct.workers.shares import divide

    wish = parse_wish(device)
    runtime = runtimes.foreseen("auto", weights or default_weights_folder(), wish, False)
    shares = divide(workers, wish, runtime, mib(memory_limit))
    with stoppable():
        join(check_address(scheduler, tls), shares, tls)
