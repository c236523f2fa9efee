"""Two kinds of error: a series that is not for us, and a run that cannot go on."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from pathlib import Path


class SeriesError(Exception):
    """This series cannot be processed; it is recorded and the batch goes on.

    Parameters
    ----------
    slug : str
        Stable machine-readable reason, e.g. ``"missing-slices"``; docs/gate.md lists them.
    message : str
        One sentence for a radiographer: what was got and what was wanted. It stands in results, so it names files by
        their SOP Instance UID.
    file : str
        The file meant, by its name, which may be a patient's: for what covct says while it runs, not for results.
    """

    def __init__(self, slug: str, message: str, file: str = ""):
        super().__init__(message)
        self.slug, self.message, self.file = slug, message, file


class RunError(Exception):
    """The process cannot go on; each subclass has an exit code of its own."""

    exit_code = 1


class UsageError(RunError):
    exit_code = 2


class PeerError(RunError):
    """Another machine cannot be reached, refuses, or does not answer as the standard wants it to."""

    exit_code = 3


class WeightsError(RunError):
    exit_code = 10


class OutputLocked(RunError):
    exit_code = 11


class OutputNotWritable(RunError):
    exit_code = 12


class DeviceMissing(RunError):
    exit_code = 13


class NotEnding(RunError):
    """A process cannot be ended, since the kernel waits for a device or a server."""

    exit_code = 14


class WorkersLost(RunError):
    """No worker can be reached, or none can be used."""

    exit_code = 14


class NotANumber(RunError):
    """The loss of a training, or its gradient, is not a number any more."""

    exit_code = 15


class Stopped(BaseException):
    """A stop signal came. Not an Exception: no handler of errors shall swallow it."""


class SourceDefect(ValueError):
    """What is wrong with a source file, in our own words: its text holds no value of free text, and may be told."""


# Their texts tell of lengths, codes and checksums; others (pydicom's, float()'s) quote the value they stumble over.
HARMLESS_TEXTS = {"zlib", "lzma", "gzip", "zipfile", "struct", "imagecodecs", "nibabel"}


def why(error: Exception) -> str:
    """Why a source file cannot be read, on one line: the error's text only where it cannot quote a patient's name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, SourceDefect | EOFError | OSError) or type(error).__module__.split(".")[0] in HARMLESS_TEXTS:
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return whereabouts(error)


def logged(error: Exception) -> str:
    """The whereabouts of an error that nobody foresaw; its frames go to the log, without its text."""
    place = whereabouts(error)
    logging.getLogger("covct").error("%s\n%s", place, "".join(traceback.format_tb(error.__traceback__)))
    return place


def whereabouts(error: Exception) -> str:
    """Kind and place of an unexpected error. Not its text: that may quote a patient's name or birth date."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest to one that is not, as a question; empty where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""
