"""`covct` as a process of its own, with networks that are plain thresholds; and with one that misbehaves.

`COVCT_MISBEHAVE` says how, on series of 29 slices: hang (in C, holding Python's lock, deaf to signals), crash, slow
(for a second, so that a signal finds it at work).
"""

import itertools
import os
import signal
import sys
import time
from dataclasses import replace

from conftest import make_networks

from covct import cli


def misbehaving(predict):
    how = os.environ.get("COVCT_MISBEHAVE", "")

    def called(slices):
        if len(slices) == 29:
            if how == "hang":
                sum(itertools.repeat(1))
            elif how == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif how == "slow":
                time.sleep(1)
        return predict(slices)

    return called


if __name__ == "__main__":
    networks = make_networks()
    networks = replace(networks, lungs=replace(networks.lungs, predict=misbehaving(networks.lungs.predict)))
    cli._networks = lambda *_: lambda: networks
    cli.main()
    sys.exit(0)
