"""What a person who sits before a run is told: what covct is at, how far it is, how long it takes, what waits and why.

Told by the events; shows nothing itself. Moments are seconds of a clock that runs evenly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

UNKNOWN_SLICES = 150  # what a volume file counts as: its slices are not known before it is read
# How the time of a series is divided until one is done: 150 slices on two cores. Then by those that are done.
SHARES = {
    "load": 0.05, "check": 0.01, "lungs": 0.5, "infection": 0.29, "postprocess": 0.01, "measure": 0.01, "write": 0.13,
}  # fmt: skip
BESIDE = ("networks", "masks")  # steps that not every series has, after it was read
COMPARE = "compare"
AT_THE_END = ("lobes", COMPARE)  # the same, before it is written
WORDS = {
    "load": "reading the slices",
    "check": "checking the slices",
    "masks": "reading the masks",
    "networks": "loading the networks",
    "lungs": "finding the lungs",
    "infection": "finding opacity",
    "postprocess": "putting the masks together",
    "measure": "measuring",
    "lobes": "dividing the lungs into lobes",
    COMPARE: "comparing with earlier results",
    "write": "writing the results",
    "page": "writing summary.csv and index.html",
}
SOONEST = 0.1  # of a series: time left is not told before
LEAST_LEFT = 0.1  # of the time left that was told: it does not run out before more is known
FLICKER_S = 1.0  # a look that takes no longer is not told of
OUTCOMES = ("done", "converted", "kept", "rejected", "failed", "unchanged")


@dataclass
class Live:
    """A run by its events.

    Attributes
    ----------
    to_do, finished : int
        Series of this pass, and those of them that have an outcome.
    """

    clock: Callable[[], datetime] = datetime.now
    to_do: int = 0
    finished: int = 0
    _slices: float = 0.0  # of the pass
    _behind: float = 0.0  # of finished series
    _at_work: dict[str, float] = field(default_factory=dict)  # slices of series at work; that of `_uid` is told of
    _uid: str = ""
    _step: str = ""
    _of_step: tuple[int, int] = (0, 0)
    _spent: dict[str, float] = field(default_factory=dict)  # seconds by step, of all series
    _began: float | None = None  # the first series of the pass
    _known: float = 0.0  # when it was last heard how far it is
    _over: bool = False  # the pass
    _not_work: float = 0.0  # seconds of loading
    _looking: float | None = -math.inf
    _files: int = 0
    _idle_since: str = ""
    _next_look: float = 0.0
    _inbox: dict[str, Any] = field(default_factory=dict)  # the last look
    _seen: float = 0.0

    def hear(self, event: dict[str, Any], now: float) -> None:
        """An event of the batch, whatever it is."""
        kind = event["event"]
        if kind in ("started", "step", *OUTCOMES) or "of" in event:
            self._known = now
        if kind == "looking":
            self._looking, self._files = now, 0
        elif kind == "look":
            self._inbox, self._seen, self._looking = event, now, None
        elif kind == "found":
            self._found(event)
        elif kind == "started":
            self._at_work[event["series"]] = event.get("slices") or UNKNOWN_SLICES
            self._uid, self._step, self._of_step = event["series"], "", (0, 0)
            self._began = now if self._began is None else self._began
        elif kind == "step":
            self._stepped(event)
        elif kind in OUTCOMES:
            series = event.get("series", self._uid)
            self._behind += self._at_work.pop(series, 0.0) or self._slices / max(1, self.to_do)
            if series == self._uid or not self._at_work:
                self._uid, self._step = next(reversed(self._at_work), ""), ""
            self._began = now if self._began is None else self._began
            self.finished += 1
        elif kind == "finished":
            self.to_do, self._step, self._over = 0, "", True
        elif kind == "alive":
            self._alive(event, now)

    def _found(self, event: dict[str, Any]) -> None:
        self.to_do, self.finished, self._behind, self._began, self._not_work = event["to_do"], 0, 0.0, None, 0.0
        self._slices = event.get("slices_to_do") or self.to_do * UNKNOWN_SLICES
        self._looking, self._over, self._idle_since = None, False, "" if self.to_do else self._idle_since

    def _stepped(self, event: dict[str, Any]) -> None:
        seconds, step = event.get("seconds"), event["step"]
        is_shown = event.get("series", self._uid) == self._uid
        if seconds is None and is_shown:
            self._step, self._of_step = step, (0, 0)
        elif seconds is None:
            return
        elif step == "networks":
            self._not_work += seconds
        else:
            self._spent[step] = self._spent.get(step, 0.0) + seconds
            self._of_step = (1, 1) if is_shown else self._of_step

    def _alive(self, event: dict[str, Any], now: float) -> None:
        self._files = event.get("files", self._files)
        self._step = event.get("step", self._step)
        if "of" in event and event.get("series", self._uid) == self._uid:
            self._of_step = event["done"], event["of"]
        if "rest_s" in event:
            self._next_look, self._step, self.to_do = now + event["rest_s"], "", 0
            self._idle_since = self._idle_since or f"{self.clock():%H:%M}"

    @property
    def share(self) -> float | None:
        """How much of the pass is behind it, 0 to 1; None while that is not known."""
        if not self.to_do or not self._slices:
            return None
        of_series = self._at_work.get(self._uid, 0.0) * self._of_series()
        return min(1.0, (self._behind + of_series) / self._slices)

    def _of_series(self) -> float:
        """How much of the series at work is done."""
        spent = {step: self._spent[step] for step in SHARES if step in self._spent}
        if not self.finished or len(spent) < len(SHARES):  # a series to which formats are added has few of the steps
            shares = SHARES
        else:
            shares = {step: seconds / sum(spent.values()) for step, seconds in spent.items()}
        steps = list(shares)
        if self._step in AT_THE_END:
            return 1 - shares["write"]
        if self._step not in steps:
            return shares["load"] + shares["check"] if self._step in BESIDE else 0.0
        done, of = self._of_step
        return sum(shares[step] for step in steps[: steps.index(self._step)]) + shares[self._step] * done / max(1, of)

    def left_s(self, now: float) -> float | None:
        """Seconds to the end of the pass, by what the work so far took; None while nobody can tell."""
        share = self.share
        if not share or self._began is None or (not self.finished and self._of_series() < SOONEST):
            return None
        worked = self._known - self._began - self._not_work
        left = worked * (1 - share) / share
        return max(left - (now - self._known), LEAST_LEFT * left)

    def at(self, now: float) -> str:
        """What it is at, in words."""
        if self._step or self._uid:
            done, of = self._of_step
            part = f", {done} of {of} slices" if of > 1 else ""
            begins = "starting" if self.finished else "loading the libraries"
            if (several := len(self._at_work)) > 1:
                begins, part = f"and {several - 1} more", f"{part}, and {several - 1} more" if self._step else ""
            return f"{self._uid} {WORDS.get(self._step, self._step or begins)}{part}".strip()
        if self._looking is not None and now - self._looking > FLICKER_S:
            return "looking for studies" + (f", {self._files:,} files so far" if self._files else "")
        if self._idle_since:
            return self._waiting(now)
        return "done" if self._over else "deciding what is to be done"

    def _waiting(self, now: float) -> str:
        following = f"next look in {max(0.0, self._next_look - now):.0f} s"
        files, left = self._inbox.get("settling_files", 0), self._inbox.get("settles_in_s", 0.0) - (now - self._seen)
        if not self._inbox.get("source_ok", True):
            return f"the inbox cannot be read, {following}"
        if files:
            settling = "1 file is" if files == 1 else f"{files:,} files are"
            return f"{settling} still settling, " + (f"{left:.0f} s" if left > 0 else following)
        if unmarked := self._inbox.get("without_marker", 0):
            return f"{unmarked} {'study waits' if unmarked == 1 else 'studies wait'} for the marker, {following}"
        return f"idle since {self._idle_since}, {following}"
