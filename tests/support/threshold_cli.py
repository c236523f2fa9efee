"""`covct` as a process of its own, with networks that are plain thresholds; and with one that misbehaves.

`COVCT_MISBEHAVE` says how, on series of 29 slices: hang (in C, holding Python's lock, deaf to signals), crash, slow
(until a signal finds it at work), full (the disk takes no new file from there on). It hangs, and the disk is full, once
its turn has come; `hang early`: while the series before it is written. Or `die N`: when all is done but the summary, N
times; `load`: networks that never come, where a second is waited for them; `stall`: the source does not answer when it
is looked at. `COVCT_HUNG_S`: when a silent one is ended.
"""

import builtins
import errno
import io
import itertools
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from covct import cli
from covct.commands import scan
from covct.disk.attempts import attempt_path
from covct.networks.network import CHUNK
from covct.results.summary import Summary
from covct.unattended import batch, supervisor
from support.processes import VICTIM
from support.thresholds import make_networks

whole = Summary.write
LAST_CHUNK = 29 % CHUNK  # the others have 30 slices


def _its_turn() -> bool:
    return attempt_path(Path(sys.argv[sys.argv.index("-o") + 1]), VICTIM).exists()


def misbehaving(predict):
    how = os.environ.get("COVCT_MISBEHAVE", "")

    def called(slices):
        if len(slices) == LAST_CHUNK:
            if how in ("hang", "full"):
                while not _its_turn():
                    time.sleep(0.01)
                time.sleep(0.5)  # for all that is told and noted at its beginning
            if how.startswith("hang"):
                sum(itertools.repeat(1))
            elif how == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif how == "slow":
                time.sleep(60)  # until the signal
            elif how == "full":
                fill_the_disk()
        return predict(slices)

    return called


def fill_the_disk():
    """Nothing new is written any more; what is there can be overwritten in place."""
    opened, descriptor_of = io.open, os.open

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fewer(path, mode="r", *args, **options):
        return refuse() if set(mode) & set("wxa") else opened(path, mode, *args, **options)

    def fewer_descriptors(path, flags, *args, **options):
        is_new = flags & os.O_CREAT and not os.path.exists(path)
        return refuse() if is_new or flags & os.O_TRUNC else descriptor_of(path, flags, *args, **options)

    builtins.open = io.open = fewer
    os.open, os.mkdir, os.rename, os.replace = fewer_descriptors, refuse, refuse, refuse


def dying(summary, touched=()):
    """Deaths are counted in the tree: each is another process's."""
    deaths = summary._out / "runs" / "deaths"
    so_far = len(deaths.read_text()) if deaths.exists() else 0
    if so_far < int(os.environ["COVCT_MISBEHAVE"].removeprefix("die ")):
        deaths.write_text("x" * (so_far + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    whole(summary, touched)


if __name__ == "__main__":
    if os.environ.get("COVCT_MISBEHAVE", "").startswith("die "):
        Summary.write = dying
    if os.environ.get("COVCT_MISBEHAVE") == "stall":
        batch.survey = lambda *_: sum(itertools.repeat(1))
    supervisor.HUNG_S = float(os.environ.get("COVCT_HUNG_S", supervisor.HUNG_S))
    networks = make_networks()
    networks = replace(networks, lungs=replace(networks.lungs, predict=misbehaving(networks.lungs.predict)))
    never = os.environ.get("COVCT_MISBEHAVE") == "load"
    if never:
        supervisor.LONGEST_LOADING_S = 1.0
    scan.networks_of = lambda *_: lambda: sum(itertools.repeat(1)) if never else networks
    cli.main()
    sys.exit(0)
