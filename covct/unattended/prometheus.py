"""Figures for Prometheus, as a text file for node_exporter's textfile collector. No identifiers, no free text.

The file is replaced whole, so that the collector never meets half of one. Its counters go on from one run to the next,
since a nightly scan that began at 0 again would hide what it did from `increase()`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covct import __version__
from covct.disk.durable import replace_file
from covct.errors import OutputNotWritable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

# name: type, help
METRICS = {
    "covct_build_info": ("gauge", "Always 1; the version is the label."),
    "covct_up": (
        "gauge",
        "1 while covct runs, 0 once it has ended; it stays 1 if covct is killed with its container.",
    ),
    "covct_last_event_timestamp_seconds": ("gauge", "Time of the last sign of life."),
    "covct_last_look_timestamp_seconds": ("gauge", "Time at which watch last looked at the inbox."),
    "covct_last_success_timestamp_seconds": ("gauge", "Time at which a series was last done."),
    "covct_last_pass_timestamp_seconds": ("gauge", "Time at which a pass last ended."),
    "covct_queue_depth": ("gauge", "Series of this pass still to do."),
    "covct_waiting_studies": ("gauge", "Studies in the inbox that have not settled yet."),
    "covct_source_ok": ("gauge", "1 while the inbox of watch can be read, 0 if it is gone or unreadable."),
    "covct_problems_total": ("counter", "Problems with files, studies and sources, by reason."),
    "covct_unreadable_files": ("gauge", "Files that this run could not read."),
    "covct_deliveries_waiting": ("gauge", "Objects still to be sent, by destination."),
    "covct_deliveries_failed": ("gauge", "Objects that a destination refuses, by destination."),
    "covct_device_info": ("gauge", "Always 1; the label says where the last series was computed: cpu or gpu."),
    "covct_instances_received_total": (
        "counter",
        "Instances by what became of them: stored, again, replaced, refused.",
    ),
    "covct_associations_total": ("counter", "Associations of a listener, by how they ended."),
    "covct_part_up": ("gauge", "1 while this process of a node runs."),
    "covct_part_restarts": ("gauge", "How often this process of a node was started again."),
    "covct_series_total": ("counter", "Series by outcome and, unless done, by reason."),
    "covct_series_seconds": ("summary", "Seconds from the start of a series to its outcome."),
    "covct_step_seconds": ("summary", "Seconds per step of a series."),
}
LABELS = {
    "covct_build_info": ("version",),
    "covct_problems_total": ("reason",),
    "covct_deliveries_waiting": ("destination",),
    "covct_deliveries_failed": ("destination",),
    "covct_instances_received_total": ("outcome",),
    "covct_associations_total": ("ended",),
    "covct_part_up": ("part",),
    "covct_part_restarts": ("part",),
    "covct_device_info": ("device",),
    "covct_series_total": ("outcome", "reason"),
    "covct_series_seconds": ("outcome",),
    "covct_step_seconds": ("step",),
}  # in alphabetical order; the others have none
WORD = re.compile(r"[a-z0-9_-]{1,40}")
UP, DOWN = b"\ncovct_up 1.0\n", b"\ncovct_up 0.0\n"
LARGEST_FILE = 1 << 20  # bytes; ours are a few KiB
WRITE_EVERY_S = 15.0  # while a series is at work; about as often as Prometheus asks

log = logging.getLogger("covct")
LabelPairs = tuple[tuple[str, str], ...]


class Metrics:
    """The figures of a run, fed with its events.

    Parameters
    ----------
    file : Path
        Counters go on from what it holds.
    now : function () -> float
        Unix time.
    """

    def __init__(self, file: Path, now: Callable[[], float] = time.time):
        self.file, self.now = file, now
        self.samples: dict[tuple[str, LabelPairs], float] = defaultdict(float)
        self.samples |= read_counters(file)
        self._set("covct_build_info", 1, version=__version__)
        self._set("covct_up", 1)
        self._set("covct_queue_depth", 0)
        self._set("covct_unreadable_files", 0)

    def observe(self, event: dict[str, Any]) -> bool:
        """Take an event in. Returns whether it is one after which the file is worth writing."""
        kind = event["event"]
        self._set("covct_last_event_timestamp_seconds", self.now())
        if kind == "found":
            self._set("covct_queue_depth", event["to_do"])
        elif kind == "problem":
            self._add("covct_problems_total", 1, reason=_word(event["slug"]))
            self._add("covct_unreadable_files", event["slug"] not in ("source-gone", "unexpected-error"))
        elif kind == "step" and event.get("seconds") is not None:
            self._took("covct_step_seconds", event["seconds"], step=_word(event["step"]))
        elif kind in ("done", "rejected", "failed"):
            self._add("covct_series_total", 1, outcome=kind, reason=_word(event.get("slug") or ""))
            self._took("covct_series_seconds", event["seconds"], outcome=kind)
            self._set("covct_queue_depth", max(0.0, self.samples["covct_queue_depth", ()] - 1))
            if kind == "done":
                self._set("covct_last_success_timestamp_seconds", self.now())
            if device := event.get("device"):
                self.samples = defaultdict(
                    float, {k: v for k, v in self.samples.items() if k[0] != "covct_device_info"}
                )
                self._set("covct_device_info", 1, device=_word(device))
        elif kind == "unchanged":
            self._set("covct_queue_depth", max(0.0, self.samples["covct_queue_depth", ()] - 1))
        elif kind == "finished":
            self._set("covct_last_pass_timestamp_seconds", self.now())
        elif kind == "sending":
            destination = _name(event["destination"])
            self._set("covct_deliveries_waiting", event["waiting"], destination=destination)
            self._set("covct_deliveries_failed", event["refused"], destination=destination)
        elif kind == "association":
            self._add("covct_associations_total", 1, ended=_word(event["ended"]))
            for outcome in ("stored", "again", "replaced", "refused"):
                self._add("covct_instances_received_total", event.get(outcome, 0), outcome=outcome)
        elif kind == "look":
            self._set("covct_last_look_timestamp_seconds", self.now())
            self._set("covct_waiting_studies", event["waiting"])
            self._set("covct_source_ok", event["source_ok"])
        return kind in ("found", "done", "rejected", "failed", "finished", "look", "sending", "association")

    def end(self) -> None:
        self._set("covct_up", 0)

    def text(self) -> str:
        """The text exposition format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry()).decode()

    def write(self) -> None:
        """Replace the file. Its temporary name does not end in .prom, so that no collector reads it.

        Raises
        ------
        OSError
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.file, self.text(), to_disk=False)

    def collect(self) -> Iterator[Metric]:
        """The families that have samples, in the order of `METRICS`; prometheus_client asks for them."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        simple = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}
        for name, (kind, about) in METRICS.items():
            first, *further = (f"{name}_count", f"{name}_sum") if kind == "summary" else (name,)
            found = sorted(labels for sample, labels in self.samples if sample == first)
            if not found:
                continue
            family = simple.get(kind, SummaryMetricFamily)(name, about, labels=LABELS.get(name, ()))
            for labels in found:
                values = [self.samples[sample, labels] for sample in (first, *further)]
                family.add_metric([value for _, value in labels], *values)
            yield family

    def _registry(self) -> CollectorRegistry:
        """Of these figures alone: the library's own registry holds figures of the Python process too."""
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def _set(self, name: str, value: float, **labels: str) -> None:
        self.samples[name, tuple(sorted(labels.items()))] = float(value)

    def _add(self, name: str, value: float, **labels: str) -> None:
        self.samples[name, tuple(sorted(labels.items()))] += float(value)

    def _took(self, name: str, seconds: float, **labels: str) -> None:
        self._add(f"{name}_sum", seconds, **labels)
        self._add(f"{name}_count", 1, **labels)


@contextmanager
def measured(file: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function to be told of every event; the file is written at the start, after each series and at the end.

    Between them at the next event after `WRITE_EVERY_S`, so that the time of the last one is not older than that.

    A file that cannot be written at the start is an error of the command; later it costs a line in the log, since
    figures that are missing are no reason to leave series undone.

    Raises
    ------
    OutputNotWritable
    """
    metrics = Metrics(file)
    try:
        metrics.write()
    except OSError as error:
        raise OutputNotWritable(f"{file}: cannot write metrics: {error.strerror}") from error
    complained, tried = False, time.monotonic()

    def observe(event: dict[str, Any]) -> None:
        nonlocal complained, tried
        if not metrics.observe(event) and time.monotonic() - tried < WRITE_EVERY_S:
            return
        tried = time.monotonic()
        try:
            metrics.write()
        except OSError as error:
            if not complained:
                log.warning("the metrics cannot be written: %s", error.strerror)
            complained = True

    try:
        yield observe
    finally:
        metrics.end()
        try:
            metrics.write()
        except OSError:
            end_in_place(file)


def end_in_place(file: Path) -> None:
    """`covct_up 0` in a file that its process left at 1; all it counted stays.

    One byte of it is overwritten: a full disk takes that, and no collector meets half a file.
    """
    with suppress(OSError):
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            at = os.read(descriptor, LARGEST_FILE).find(UP)
            if at >= 0:
                os.pwrite(descriptor, DOWN, at)
        finally:
            os.close(descriptor)


def read_counters(file: Path) -> dict[tuple[str, LabelPairs], float]:
    """What a file of ours counted so far, and when a success was last; nothing of a file that is absent or damaged."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(file.read_text()))
    except (OSError, ValueError):
        return {}
    out: dict[tuple[str, LabelPairs], float] = {}
    for sample in (sample for family in families for sample in family.samples):
        name = re.sub("_(sum|count)$", "", sample.name)
        kept = METRICS.get(name, ("", ""))[0] in ("counter", "summary") or "_timestamp_" in name
        if kept and tuple(sorted(sample.labels)) == LABELS.get(name, ()):
            out[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return out


def _word(text: str) -> str:
    """A label's value: one of covct's own words, never what a file says."""
    return text if not text or WORD.fullmatch(text) else "other"


def _name(text: str) -> str:
    """A destination as a label: its name in covct.toml, or its address without what no label needs."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:40]
