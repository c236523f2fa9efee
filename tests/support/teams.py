"""Networks that workers of other processes load: found there by their names, not carried along."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from covct.networks.network import Networks
from covct.unattended import one_series
from support.thresholds import make_networks

MOMENT = datetime(2026, 5, 4, tzinfo=UTC)


def at_one_moment() -> Networks:
    """Thresholds; what is computed with them in this process tells one moment and one installation."""
    one_series.now = lambda: MOMENT  # type: ignore[assignment]
    one_series.installation = lambda out: "one"  # type: ignore[assignment]
    return make_networks()


def held_up() -> Networks:
    """The same; at the first call in any process a file says which process that is, and it stays there until killed.

    COVCT_HELD is the file. Of those that come later nobody stays.
    """
    networks = at_one_moment()

    def predict(slices: np.ndarray) -> np.ndarray:
        path = Path(os.environ["COVCT_HELD"])
        try:
            with path.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return networks.lungs.predict(slices)
        time.sleep(600)
        return networks.lungs.predict(slices)

    return replace(networks, lungs=replace(networks.lungs, predict=predict))
