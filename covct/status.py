"""The state of an output tree on one screen: what its results and its last run say. Only reads."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from covct import RESEARCH_USE
from covct.results import read_tree
from covct.runs import latest


def tree_status(out: Path, now: datetime) -> dict[str, Any]:
    """Counts by outcome and reason, and the last run's waiting, rate, end and age.

    `last_error` is the last result that failed: its reason, folder and time. A run whose `end` is null runs, or was
    killed; `updated` is when its last series was finished.
    """
    entries = read_tree(out)
    counts = Counter((entry.status, entry.slug or "") for entry in entries)
    failed = sorted((entry for entry in entries if entry.status == "failed"), key=lambda entry: entry.finished)
    run = latest(out, now)
    return {
        "series": sum(counts.values()),
        "by_outcome": [{"status": s, "slug": slug or None, "series": n} for (s, slug), n in sorted(counts.items())],
        "done": _total(counts, "done"),
        "rejected": _total(counts, "rejected"),
        "failed": _total(counts, "failed"),
        "waiting": run["waiting"] if run else None,
        "series_per_hour": run["series_per_hour"] if run else None,
        "last_error": _last_error(failed[-1]) if failed else None,
        "last_run": {name: run[name] for name in ("command", "began", "updated", "end", "error")} if run else None,
        "last_run_seconds_ago": _age(run["updated"], now) if run else None,
        "research_use": RESEARCH_USE,
    }


def _total(counts: Counter, status: str) -> int:
    return sum(number for (of, _), number in counts.items() if of == status)


def _last_error(entry) -> dict[str, str]:
    return {"slug": entry.slug, "message": entry.message, "folder": entry.folder, "finished": entry.finished}


def _age(moment: str, now: datetime) -> float:
    """Seconds since; never below 0, should the clock have been set back."""
    return round(max(0.0, (now - datetime.fromisoformat(moment)).total_seconds()), 1)
