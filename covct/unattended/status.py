"""The state of an output tree on one screen: is covct alive, what is it at, what waits, what came of the night. Only
reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE
from covct.disk import state
from covct.disk.places import PRIVATE
from covct.results.entries import Entry, read_tree
from covct.unattended import heartbeat
from covct.unattended.heartbeat import BROKEN, ENDED, IDLE, Heartbeat, age_s, read_beat, read_waiting, since_boot
from covct.unattended.parts import PartState, read_parts
from covct.unattended.run_summary import RunSummary
from covct.unattended.runs import latest
from covct.unattended.sending import as_document, read_sending
from covct.unattended.sending import sentence as of_destination
from covct.visible import span

MAX_AGE_S = 1800.0
STATUSES = ("done", "rejected", "failed")
NONE, WORKS, IDLES, HUNG, DEAD, SOURCE_GONE = "none", "working", "idle", "hung", "dead", "source-gone"
WHY = {
    "settling": "its files changed too recently",
    "without marker": "its marker file has not arrived",
    "unreadable": "one of its files cannot be read; covct will try again",
    "until": "--until was reached before its turn",
    "limit": "--limit was reached before its turn",
}


@dataclass(frozen=True)
class Life:
    """Whether covct is alive, by its last beat and the lock of the tree.

    Attributes
    ----------
    state : str
        none; working, idle, source-gone (alive); hung (no beat for too long); dead (killed: it worked, and nothing
        holds the tree); ended; broken (by an error).
    age_s : float or None
        Since the last beat.
    holder : str
        Which process holds the tree; empty where none does, or where that cannot be told.
    """

    state: str
    beat: Heartbeat | None
    age_s: float | None
    holder: str
    max_age_s: float = MAX_AGE_S

    @property
    def healthy(self) -> bool:
        return self.state in (WORKS, IDLES, ENDED) and self.age_s is not None and self.age_s <= self.max_age_s


def life(out: Path, max_age_s: float = MAX_AGE_S) -> Life:
    """Ask the last beat, and the lock: a process that was killed leaves a beat, but no lock."""
    last, is_held = read_beat(out / PRIVATE), state.is_held(out)
    holder = state.holder(out) if is_held is not False else ""
    if last is None:
        return Life(NONE, None, None, holder)
    age = age_s(last)
    return Life(_state(last, is_held, age, max_age_s), last, age, holder, max_age_s)


def _state(last: Heartbeat, is_held: bool | None, age: float, max_age_s: float) -> str:
    if last.state == BROKEN:
        return BROKEN
    if last.state == ENDED:
        return ENDED
    if is_held is False:
        return DEAD
    if age > max_age_s:
        return HUNG
    if not last.doing.source_ok:
        return SOURCE_GONE
    return IDLES if last.doing.step == IDLE else WORKS


def tree_status(out: Path, now: datetime) -> dict[str, Any]:
    """Counts by outcome and reason, the last run's end and rate, and what goes on now.

    `last_error` is the last result that failed: its reason, folder and time. A run whose `end` is null runs, or was
    killed: `now` tells which. `updated` is when its last series was finished.
    """
    entries = read_tree(out)
    counts = Counter((entry.status, entry.slug or "") for entry in entries)
    failed = sorted((entry for entry in entries if entry.status == "failed"), key=lambda entry: entry.finished)
    run = latest(out, now)
    alive = life(out)
    waiting = read_waiting(out / PRIVATE)
    return {
        "now": _now(alive),
        "parts": [asdict(part) for part in read_parts(out / PRIVATE)],
        "series": sum(counts.values()),
        "by_outcome": [{"status": s, "slug": slug or None, "series": n} for (s, slug), n in sorted(counts.items())],
        "done": _total(counts, "done"),
        "rejected": _total(counts, "rejected"),
        "failed": _total(counts, "failed"),
        "waiting": run.waiting if run else None,
        "waiting_studies": _waiting(waiting, now),
        "series_per_hour": run.series_per_hour if run else None,
        "destinations": _destinations(out, now),
        "last_error": _last_error(failed[-1]) if failed else None,
        "last_run": _run(run, alive) if run else None,
        "last_run_seconds_ago": _age(run.updated, now) if run else None,
        "research_use": RESEARCH_USE,
    }


def _now(alive: Life) -> dict[str, Any]:
    """What goes on, for machines; `ends_in_s` by the rate of this pass, null while none can be told."""
    doing = alive.beat.doing if alive.beat else heartbeat.Doing()
    is_alive = alive.state in (WORKS, IDLES, HUNG, SOURCE_GONE)
    rate = _rate(doing) if alive.state == WORKS else None
    return {
        "state": alive.state,
        "healthy": alive.healthy,
        "age_s": None if alive.age_s is None else round(alive.age_s, 1),
        "process": alive.beat.process if alive.beat else None,
        "holder": alive.holder or None,
        "command": doing.command or None,
        "folder": doing.folder or None,
        "step": doing.step or None,
        "at_work": doing.at_work if is_alive else 0,
        "step_seconds": _elapsed(doing.since) if is_alive else None,
        "series_seconds": _elapsed(doing.series_since) if is_alive and doing.folder else None,
        "to_do": doing.to_do,
        "finished": doing.finished,
        "failed": doing.failed,
        "problems": doing.problems,
        "series_per_hour": rate,
        "ends_in_s": round(3600 * doing.to_do / rate) if rate and doing.to_do else None,
        "source_ok": doing.source_ok,
        "error": doing.error or None,
    }


def _rate(doing: heartbeat.Doing) -> float | None:
    """Series an hour in this pass."""
    seconds = _elapsed(doing.pass_began)
    return round(3600 * doing.finished / seconds, 1) if doing.finished and seconds else None


def _elapsed(moment: float) -> float:
    """Seconds since a moment of this start of the machine."""
    return round(max(0.0, since_boot() - moment), 1)


def _waiting(rows: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """How many wait for what, and the oldest of each."""
    reasons: dict[str, list[float]] = {}
    for row in rows:
        reasons.setdefault(row["why"], []).append(row["since"])
    return [
        {"why": why, "studies": len(since), "oldest_s": round(max(0.0, now.timestamp() - min(since)))}
        for why, since in sorted(reasons.items())
    ]


def _destinations(out: Path, now: datetime) -> list[dict[str, Any]]:
    """Where results are sent to, and what waits there, by the last that their sender said."""
    said = read_sending(out)
    rows = as_document(said.destinations, now.timestamp()) if said else []
    return [{**row, "told_s_ago": _age(said.updated, now)} for row in rows if said]


def _run(run: RunSummary, alive: Life) -> dict[str, Any]:
    """The last run, and what it may have lost: a killed one has no end, and nothing holds the tree."""
    told = run.model_dump(include={"command", "began", "updated", "end", "error"})
    counted = {status: sum(row.series for row in run.outcomes if row.status == status) for status in STATUSES}
    was_killed = run.end is None and alive.state in (DEAD, NONE)
    at_work = alive.beat.doing.folder if alive.state in (DEAD, BROKEN) and alive.beat else ""
    if run.end is None and alive.state == BROKEN and alive.beat:  # a full disk took the beat, but not the run's file
        told |= {"end": "error", "error": alive.beat.doing.error or None}
    return {**told, **counted, "waiting": run.waiting, "killed": was_killed, "at_work": at_work or None}


def _total(counts: Counter[Any], status: str) -> int:
    return sum(number for (of, _), number in counts.items() if of == status)


def _last_error(entry: Entry) -> dict[str, str]:
    return {"slug": entry.slug, "message": entry.message, "folder": entry.folder, "finished": entry.finished}


def _age(moment: str, now: datetime) -> float:
    """Seconds since; never below 0, should the clock have been set back."""
    return round(max(0.0, (now - datetime.fromisoformat(moment)).total_seconds()), 1)


def sentences(told: dict[str, Any]) -> list[tuple[str, str]]:
    """What an operator asks at three in the morning, each answer with its heading."""
    lines = [("alive", _alive(told["now"]))]
    if told["parts"]:
        lines.append(("node", "; ".join(_part(PartState(**part)) for part in told["parts"])))
    if told["now"]["folder"] and told["now"]["step_seconds"] is not None:
        lines.append(("at work", _at_work(told["now"])))
    if told["now"]["step_seconds"] is not None and told["now"]["state"] != IDLES and told["now"]["to_do"]:
        lines.append(("progress", _progress(told["now"])))
    for row in told["waiting_studies"]:
        lines.append(("waiting", f"{row['studies']} {_reason(row['why'])}; the oldest for {span(row['oldest_s'])}"))
    for row in told["destinations"]:
        lines.append(("sending", f"{of_destination(row)} (told {span(row['told_s_ago'])} ago)"))
    if told["last_run"]:
        lines += _of_last_run(told)
    if error := told["last_error"]:
        lines.append(("last error", f"{error['finished']}  {error['slug']}: {error['message']} ({error['folder']})"))
    return lines


def run_sentences(run: RunSummary, alive: Life, now: datetime) -> list[tuple[str, str]]:
    """What came of a run, and whether anything of it is missing, in the same words."""
    seconds = _age(run.updated, now)
    rate = run.series_per_hour
    return _of_last_run({"last_run": _run(run, alive), "series_per_hour": rate, "last_run_seconds_ago": seconds})


def _of_last_run(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [("last run", _last_run(told)), ("lost", _lost(told))]


def _part(part: PartState) -> str:
    """A process of a node, in words."""
    again = f", started again {part.restarts} {'time' if part.restarts == 1 else 'times'}" if part.restarts > 0 else ""
    if part.up or part.exit_code is None:
        return f"{part.name} is {'up' if part.up else 'not up yet'}{again}"
    return f"{part.name} is down: it ended with exit code {part.exit_code}{again}"


def _alive(now: dict[str, Any]) -> str:
    ago = f"last sign of life {span(now['age_s'])} ago" if now["age_s"] is not None else ""
    who = now["holder"] or f"process {now['process']}"
    return {
        NONE: "covct has not given a sign of life here yet",
        WORKS: f"yes: {now['command']} is working ({who}), {ago}",
        IDLES: f"yes: {now['command']} is idle and will look again soon ({who}), {ago}",
        SOURCE_GONE: f"yes, but the source is gone or cannot be read; check that it is mounted ({who}), {ago}",
        HUNG: f"it hangs: {who} holds the output tree, but {ago}; check the step, the driver and the network shares",
        DEAD: f"no: it was killed while working, and nothing holds the output tree; {ago}. Restart it to continue",
        BROKEN: f"no: {now['error'] or 'an error'} ended it (see its log and `covct doctor --out`); {ago}",
        ENDED: f"no: it has ended; {ago}",
    }[now["state"]]


def _at_work(now: dict[str, Any]) -> str:
    step = f"step {now['step']} for {span(now['step_seconds'])}" if now["step"] else "starting"
    others = f"; {now['at_work'] - 1} more at work" if now["at_work"] > 1 else ""
    return f"{now['folder']}: {step}, {span(now['series_seconds'])} for the series so far{others}"


def _progress(now: dict[str, Any]) -> str:
    parts = [f"{now['finished']} of {now['finished'] + now['to_do']} series in this pass"]
    if now["series_per_hour"]:
        parts.append(f"{now['series_per_hour']:g} per hour")
    parts += [f"{now['to_do']} to do, about {span(now['ends_in_s'])} left"] if now["ends_in_s"] else []
    parts += [f"{now['failed']} failed"] if now["failed"] else []
    parts += [f"{now['problems']} problems"] if now["problems"] else []
    return ", ".join(parts)


def _reason(why: str) -> str:
    words = {"settling": "settle", "without marker": "without a marker yet", "unreadable": "cannot be read"}
    return words.get(why, f"left over by --{why}")


def _last_run(told: dict[str, Any]) -> str:
    run = told["last_run"]
    end = {None: "was killed" if run["killed"] else "runs", "error": f"ended by {run['error'] or 'an error'}"}
    end |= {why: f"ended by --{why}" for why in ("limit", "until")}
    rate = f", {told['series_per_hour']:g} series/h" if told["series_per_hour"] else ""
    counts = ", ".join(f"{run[status]} {status}" for status in STATUSES if run[status]) or "no series finished"
    ago = span(told["last_run_seconds_ago"])
    return (
        f"{run['command']} of {run['began']}: {end.get(run['end'], run['end'])}, "
        f"{counts}{rate}; last heard from {ago} ago"
    )


def _lost(told: dict[str, Any]) -> str:
    """Whether anything of the last run is missing."""
    run, parts = told["last_run"], []
    at = f" at {run['at_work']}, which will be redone" if run["at_work"] else ""
    if run["killed"]:
        parts.append(f"it was killed{at}; the next run will do the rest")
    if run["end"] == "error":
        parts.append(f"an error ended it{at}; the next run will do the rest")
    if run["failed"]:
        parts.append(f"{run['failed']} series failed (--retry-failed)")
    if run["waiting"]:
        parts.append(f"{run['waiting']} series wait for the next run")
    if not parts:
        return "nothing so far" if run["end"] is None else "nothing: every series found has an outcome"
    return "; ".join(parts)


def why(out: Path, uid: str, now: datetime) -> list[str]:
    """Why a study or series is not done, in sentences; empty where nothing is known of it.

    Parameters
    ----------
    uid : str
        A Study or Series Instance UID, or a folder of the output tree.
    """
    said = [_why_entry(entry, now) for entry in read_tree(out) if _is_meant(uid, entry)]
    alive = life(out)
    doing = alive.beat.doing if alive.beat else heartbeat.Doing()
    if doing.folder and uid in (doing.folder, *doing.folder.split("/")) and alive.state != ENDED:
        how = (
            "it was being processed when covct was killed" if alive.state in (DEAD, BROKEN) else "it is being processed"
        )
        said.append(f"{doing.folder}: {how}, {_step_words(doing, alive)}")
    for row in read_waiting(out / PRIVATE):
        if uid in (row["folder"], *row["folder"].split("/")):
            age = span(max(0.0, now.timestamp() - row["since"]))
            said.append(f"{row['folder']}: waiting, {WHY.get(row['why'], row['why'])} (for {age})")
    return said


def _step_words(doing: heartbeat.Doing, alive: Life) -> str:
    step = f"step {doing.step}" if doing.step else "starting"
    return step if alive.state in (DEAD, BROKEN) else f"{step} for {span(_elapsed(doing.since))}"


def _is_meant(uid: str, entry: Entry) -> bool:
    named = (entry.folder, *entry.folder.split("/"), entry.study_instance_uid, entry.series_instance_uid)
    return uid in named


def _why_entry(entry: Entry, now: datetime) -> str:
    try:
        ago = f", {span(_age(entry.finished, now))} ago"
    except ValueError:
        ago = ""
    reason = f" ({entry.slug}: {entry.message})" if entry.status != "done" else ""
    return f"{entry.folder}: {entry.status}{reason}{ago}"
