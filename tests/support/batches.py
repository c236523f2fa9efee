"""Passes over three studies, and a watch whose time is told."""

import json
import time

import pytest

from covct.errors import Stopped
from covct.unattended import batch
from covct.unattended.event import Event
from covct.unattended.logs import QUIET


def well_told(events):
    """What people are told of these events, each as `Event` says that it is: it may hold nothing more."""
    told = [one for one in events if one["event"] not in QUIET]
    for one in told:
        Event.model_validate_json(json.dumps(one))
    return told


def run(order, networks):
    """How it ended, and the events that people are told."""
    events = []
    tally = batch.scan(order, lambda: networks, events.append)
    return tally, well_told(events)


def never():
    raise AssertionError("networks must not be loaded when there is nothing to do")


class Clock:
    """Time that passes by sleeping; the inbox changes meanwhile."""

    def __init__(self, changes):
        self.now, self.changes = 0.0, changes

    def sleep(self, seconds):
        self.now += seconds
        if not self.changes:
            raise Stopped("SIGTERM")
        if change_now := self.changes.pop(0):
            change_now()


def watched(order, networks, changes, settle=25):
    clock, events = Clock(changes), []
    with pytest.raises(Stopped):
        batch.watch(order, lambda: networks, events.append, settle, 10, clock.sleep, lambda: clock.now)
    return [(e["event"], e["folder"]) for e in events if e["event"] in ("done", "rejected", "failed", "skipped")]


def later():
    """An hour from now: what was written a moment ago has come to rest by then."""
    return time.time_ns() + 3600 * 10**9
