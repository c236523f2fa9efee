"""Libraries that talk without being asked, kept quiet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from covct.errors import DeviceMissing

ENGINES = {"keras", "tensorflow", "h5py", "tensorboardX"}  # what the extras cpu and gpu bring, and slim does not


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Import tensorflow without its greeting, which it writes to descriptor 2 before it reads its log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else the first process takes all of a GPU's memory
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the same for jax
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ENGINES:
            raise
        raise DeviceMissing(
            f"this needs TensorFlow, and {error.name} is not installed: pip install 'covct[cpu]', or covct[gpu]"
        ) from error
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
