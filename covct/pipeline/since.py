"""What has changed since the patient's last result: figures then and now, and the same in sentences.

Whose results may be compared is not decided here. The sentences are made here once, and stand in the report: the SR,
the study's page and whatever else tells of a change repeats them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from covct.pipeline.lesions_since import Matched
from covct.pipeline.report_document import Report
from covct.visible import days, share

MOST_EARLIER = 20  # results on the line over time
CHANGED_POINTS = 5.0  # of share, where there is no interval: what is worth a second look, not what is proven
SPACING_RATIO = 1.5  # slices so much thicker or thinner show small lesions otherwise
FIRST = "No earlier result of this patient was found."


class Earlier(Protocol):
    """An earlier result of the same patient: its report, and how many days lie between the studies."""

    @property
    def report(self) -> Report: ...

    @property
    def days(self) -> int: ...


def not_compared(reason: str, mark: str | None = None) -> dict[str, Any]:
    """The report's block where nothing is compared."""
    told = FIRST if mark == "first" else f"Not compared with earlier results: {reason}."
    return {"mark": mark, "reason": reason, "sentences": [told], "earlier": [], "comparison": None}


def compared(
    report: dict[str, Any],
    earlier: Sequence[Earlier],
    prior: dict[str, Any],
    lesions: Matched | str,
    others: bool = False,
) -> dict[str, Any]:
    """The report's block.

    Parameters
    ----------
    report : dict
        Of this result, as `build_report` makes it.
    earlier : sequence of Earlier
        The oldest first; this result is compared with the last.
    prior : dict
        The block's `prior`: which result that is.
    lesions : Matched or str
        New and vanished ones, or why they were not matched.
    others : bool
        Further results bear the Patient ID and are not surely the patient's.
    """
    then = earlier[-1].report
    both, before = report["regions"]["lungs"], then.regions.lungs
    change = {
        "prior": prior,
        "infection_percent": _share(report, then),
        **{name: _between(before.figure(name), both[name], 3) for name in ("infection_ml", "volume_ml")},
        "severity_class": {"then": then.severity.class_, "now": report["severity"]["class"]},
        "lesions": _lesions(lesions),
        "cautions": [{"slug": slug, "message": told} for slug, told in _cautions(report, then, others)],
    }
    return {
        "mark": _mark(change),
        "reason": None,
        "sentences": list(_sentences(change)),
        "earlier": [_point(one) for one in earlier[-MOST_EARLIER:]],
        "comparison": change,
    }


def _point(one: Earlier) -> dict[str, Any]:
    both, severity = one.report.regions.lungs, one.report.severity
    ends = both.interval("infection_percent")
    return {
        "days_before": one.days,
        "infection_percent": both.figure("infection_percent"),
        "infection_percent_interval": list(ends) if ends else None,
        "infection_ml": both.figure("infection_ml"),
        "volume_ml": both.figure("volume_ml"),
        "severity_class": severity.class_,
    }


def _between(then: float | None, now: float | None, digits: int) -> dict[str, float | None]:
    difference = None if then is None or now is None else round(now - then, digits) + 0.0
    return {"then": then, "now": now, "difference": difference}


def _share(report: dict[str, Any], then: Report) -> dict[str, Any]:
    """Then, now and between. Each interval may miss its truth, so both hold together by what is left of both levels."""
    both = report["regions"]["lungs"]
    between = _between(then.regions.lungs.figure("infection_percent"), both["infection_percent"], 2)
    now, before = both["infection_percent_interval"], then.regions.lungs.interval("infection_percent")
    level = _level(report, then)
    if between["difference"] is None:
        reason = "one of the results has no share of opacity"
    elif now is None and before is None:
        reason = "neither share has an interval"
    elif now is None or before is None:
        reason = f"the share {'now' if now is None else 'then'} has no interval"
    elif level is None:
        reason = "what the intervals of both shares hold is not known"
    else:
        ends = [round(now[0] - before[1], 2), round(now[1] - before[0], 2)]
        return {**between, "interval": ends, "level": level, "reason": None}
    return {**between, "interval": None, "level": None, "reason": reason}


def _level(report: dict[str, Any], then: Report) -> float | None:
    """How often both intervals hold, at least; None where one report does not say."""
    given, before = (report.get("uncertainty") or {}).get("figures"), then.uncertainty and then.uncertainty.figures
    if not given or not before:
        return None
    levels = given["infection_percent"]["level"], before.infection_percent.level
    level = round(sum(one or 0.0 for one in levels) - 1, 3)
    return level if all(levels) and level > 0 else None


def _mark(change: dict[str, Any]) -> str | None:
    percent, severity = change["infection_percent"], change["severity_class"]
    if percent["difference"] is None:
        return None
    if percent["interval"]:
        low, high = percent["interval"]
        return "unchanged" if low <= 0 <= high else "changed"
    moved = severity["then"] != severity["now"] or abs(percent["difference"]) >= CHANGED_POINTS
    return "changed" if moved else "unchanged"


def _lesions(lesions: Matched | str) -> dict[str, Any]:
    if isinstance(lesions, str):
        counts = dict.fromkeys(("overlap", "new_count", "vanished_count", "persisting_count"))
        return {"reason": lesions, **counts, "new": [], "vanished": []}
    told: dict[str, Any] = {"reason": None, **asdict(lesions)}
    for one in (*told["new"], *told["vanished"]):
        one["volume_ml"] = round(one["volume_ml"], 3)
        one["centroid_lps_mm"] = list(one["centroid_lps_mm"])
    return told


def _cautions(report: dict[str, Any], then: Report, others: bool) -> Iterator[tuple[str, str]]:
    if others:
        told = "further results bear the same Patient ID and are not surely this patient's; they were left out"
        yield "patient-id-shared", told
    spacing, before = report["geometry"]["slice_spacing_mm"], then.geometry.slice_spacing_mm
    if spacing and before and max(spacing / before, before / spacing) >= SPACING_RATIO:
        yield "another-slice-spacing", f"slices lay {before:g} mm apart then, {spacing:g} mm now"
    source = report["source"]
    if source["kernel"] != then.source.kernel and source["kernel"] and then.source.kernel:
        yield "another-kernel", f"the kernel was {then.source.kernel} then, {source['kernel']} now"
    if then.source.contrast is not None and source["contrast"] != then.source.contrast:
        yield "another-contrast", f"contrast agent was given {'then' if then.source.contrast else 'now'} only"
    if source["lossy"] != then.source.lossy:
        yield "lossy", f"the scan {'then' if then.source.lossy else 'now'} was compressed with loss"
    release, another = (version.split("+")[0] for version in (report["covct_version"], then.covct_version))
    if release != another:
        yield "another-version", f"covct was {another} then, {release} now"
    networks = report["networks"]
    for task, card in (("lungs", then.networks.lungs), ("infection", then.networks.infection)):
        used = networks[task]
        if (used["sha256"], used["threshold"]) != (card.sha256, card.threshold):
            yield f"another-{task}-network", f"the network for {task} was another one then"


def _sentences(change: dict[str, Any]) -> Iterator[str]:
    percent, ml, lungs = (change[name] for name in ("infection_percent", "infection_ml", "volume_ml"))
    severity, lesions = change["severity_class"], change["lesions"]
    ago = days(change["prior"]["days_before"])
    if percent["difference"] is None:
        yield f"The share of opacity cannot be compared with that of the scan {ago} before: {percent['reason']}."
    else:
        yield (
            f"{share(percent['then'])} of the lungs marked {ago} before, {share(percent['now'])} now: "
            f"{_more(percent['difference'], 1, 'percentage points')}."
        )
        if percent["interval"]:
            low, high = percent["interval"]
            level = f"at a level of {100 * percent['level']:.0f} %"
            yield f"The change lies between {low:+.1f} and {high:+.1f} points, {level}."
        else:
            yield f"The change has no interval: {percent['reason']}."
    if ml["difference"] is not None:
        yield f"Opacity: {ml['then']:.0f} mL then, {ml['now']:.0f} mL now: {_more(ml['difference'], 0, 'mL')}."
    if lungs["difference"] is not None:
        yield f"Lungs: {lungs['then']:.0f} mL then, {lungs['now']:.0f} mL now."
    if severity["then"] and severity["now"]:
        same = severity["then"] == severity["now"]
        yield f"Severity class {severity['then']} then" + (" and now." if same else f", {severity['now']} now.")
    if lesions["reason"]:
        yield f"Lesions were not matched: {lesions['reason']}."
    else:
        counts = ", ".join(f"{lesions[f'{kind}_count']} {kind}" for kind in ("new", "vanished", "persisting"))
        yield f"Lesions: {counts}."
    yield from (f"Caution: {one['message']}." for one in change["cautions"])


def _more(difference: float, digits: int, unit: str) -> str:
    size = f"{abs(difference):.{digits}f}"
    if not float(size):
        return "no change"
    return f"{size} {unit} {'more' if difference > 0 else 'less'}"
