"""An evaluation on one self-contained HTML page: nothing on it is fetched or run."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from covct.data.cases import identity
from covct.evaluation.figures import SERIES, bland_altman, box, curves, reliability, threshold_curve
from covct.evaluation.judge import Picture

Group = dict[str, Any]
History = dict[str, list[float]]

NAMES = {
    "dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall", "f1": "F1",
    "specificity": "specificity", "accuracy": "accuracy", "hd95_mm": "HD95, mm", "surface_dice": "surface Dice",
}  # fmt: skip
MOST_ROWS = 80
MOST_PICTURES = 4  # worst, and as many best
EPOCH_LINES = {"loss": ("loss", "val_loss"), "Dice": ("dice", "val_dice")}


def read_history(folder: Path, task: str) -> History | None:
    """What training wrote beside a card: TASK-history.json, else TASK.csv; None where there is neither."""
    try:
        told = json.loads((folder / f"{task}-history.json").read_text())
        return {name: [float(v) for v in values] for name, values in told.items()}
    except OSError:
        pass
    except (ValueError, TypeError, AttributeError):  # another program's file
        return None
    try:
        with open(folder / f"{task}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0] if _is_number(rows[0][name])}
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except (ValueError, TypeError):
        return False
    return True


def as_html(evaluation: dict[str, Any], history: dict[str, History | None], pictures: dict[str, list[Picture]]) -> str:
    """The page.

    Parameters
    ----------
    evaluation : dict
        As written to evaluation.json.
    history : dict of str to History or None
        By task; empty where no network of ours was judged.
    pictures : dict of str to list of Picture
        By task; the worst and best of them are shown.
    """
    tasks = [task for task in evaluation["settings"]["tasks"] if any(g["task"] == task for g in evaluation["groups"])]
    body = [_top(evaluation)]
    for task in tasks:
        body.append(_task_section(evaluation, task, pictures.get(task, [])))
    body += [_without_truth(evaluation), _training(history), _left_out(evaluation), _foot(evaluation)]
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>covct evaluation</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _top(evaluation: dict[str, Any]) -> str:
    what = "another tool's masks" if evaluation["judged"]["what"] == "predictions" else "networks"
    patients = len({identity(row["source"], row["patient"]) for row in evaluation["cases"]})
    notes = "".join(f"<li>{escape(note)}</li>" for note in evaluation["notes"])
    seen = '<p class="notice bad" role="note">Seen in training: not a measure of new patients.</p>'
    return (
        f"<header>\n<h1>Evaluation of {what}</h1>\n"
        f'<p class="notice" role="note">{escape(evaluation["research_use"])}</p>'
        f"{seen if evaluation['also_seen'] else ''}\n"
        f"<p>{len(evaluation['cases'])} cases of {patients} patients, {_patients_words(evaluation)}. "
        "In brackets 95 % intervals by bootstrap over patients "
        f"({evaluation['settings']['resamples']:,} resamples).</p>\n"
        f'<ul class="notes">{notes}</ul>\n</header>'
    )


def _patients_words(evaluation: dict[str, Any]) -> str:
    if evaluation["also_seen"]:
        return "some of whom networks have learned from"
    return "held out by the cards" if evaluation["judged"]["cards"] else "whoever lies in the folder"


def _task_section(evaluation: dict[str, Any], task: str, pictures: list[Picture]) -> str:
    groups = [group for group in evaluation["groups"] if group["task"] == task]
    sources = [group["source"] for group in groups if group["source"] != "all"]
    classes = {source: SERIES[k % len(SERIES)] for k, source in enumerate(sources)}
    legend = "".join(f'<li><i class="key {cls}"></i>{escape(source)}</li>' for source, cls in classes.items())
    keys = f'<ul class="legend" aria-label="Sources">{legend}</ul>' if len(sources) > 1 else ""
    return (
        f'<section id="{task}">\n<h2>{task.capitalize()}</h2>\n{_scores_table(groups)}\n'
        f"{keys}\n{_plots(evaluation, task, groups, classes)}\n"
        f"<h3>Cases, worst first</h3>\n{_cases_table(evaluation, task)}\n{_shown(task, pictures)}\n</section>"
    )


def _scores_table(groups: Sequence[Group]) -> str:
    """A column a source, so that a narrow screen scrolls over few columns."""
    heads = "".join(
        f'<th scope="col">{escape(g["source"])}<small>{g["cases"]} cases, {g["patients"]} patients, '
        f"{g['slices']:,} slices</small></th>"
        for g in groups
    )
    rows = []
    for name in ("dice", "iou", "precision", "recall", "specificity", "accuracy"):
        words = {"recall": "recall, sensitivity", "dice": "Dice, F1"}.get(name, NAMES[name])
        rows.append((f"{words} <small>pooled</small>", [_with_interval(g["pooled"][name]) for g in groups]))
    in_mm = any(g["mean"]["surface_dice"]["cases"] for g in groups)
    for name in ("dice", "iou", "precision", "recall", *(("surface_dice", "hd95_mm") if in_mm else ())):
        cells = [_with_interval(g["mean"][name], name) + _infinite(g["mean"][name]) for g in groups]
        rows.append((f"{NAMES[name]} <small>mean of cases</small>", cells))
    for key, words, unit in (
        ("volume_ml", "volume error", "mL"),
        ("volume_error_percent", "volume error", "%"),
        ("percent_of_lung", "infected share error", "points"),
    ):
        if any(g[key] for g in groups):
            cells = [_with_interval(g[key]["bias"], "ml") if g[key] else "–" for g in groups]
            rows.append((f"{words}, {unit} <small>bias</small>", cells))
            cells = [_limits(g[key]) if g[key] else "–" for g in groups]
            rows.append((f"{words}, {unit} <small>95 % limits of agreement</small>", cells))
            cells = [_with_interval(g[key]["mean_absolute_error"], "ml") if g[key] else "–" for g in groups]
            rows.append((f"{words}, {unit} <small>mean size</small>", cells))
    if any(g["calibration"] for g in groups):
        for key, words in (("expected_calibration_error", "calibration error"), ("brier_score", "Brier score")):
            rows.append(
                (words, [_with_interval(g["calibration"][key], key) if g["calibration"] else "–" for g in groups])
            )
        rows.append(("Dice <small>threshold chosen on the other patients</small>", [_by_others(g) for g in groups]))
    body = "\n".join(
        f'<tr><th scope="row">{head}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for head, cells in rows
    )
    head = f'<thead><tr><th scope="col">figure</th>{heads}</tr></thead>'
    return f'<div class="scroll fitting"><table class="scores">{head}\n<tbody>\n{body}\n</tbody></table></div>'


def _with_interval(figure: dict[str, Any], name: str = "") -> str:
    if figure["value"] is None:
        return "–"
    shown = _figure(figure["value"], name)
    if figure["interval"]:
        low, high = (_figure(end, name) for end in figure["interval"])
        shown += f" <small>({low} to {high})</small>"
    return shown


def _infinite(mean: dict[str, Any]) -> str:
    """How many cases a mean leaves out since their distance is infinite."""
    count = mean["infinite"]
    return f" <small>and ∞ in {count} of {count + mean['cases']} cases</small>" if count else ""


def _figure(value: float | None, name: str = "") -> str:
    if value is None:
        return "–"
    digits = {"hd95_mm": 1, "ml": 1, "expected_calibration_error": 4, "brier_score": 4}.get(name, 3)
    return f"{value:.{digits}f}".replace("-", "−")


def _limits(figures: dict[str, Any]) -> str:
    low, high = (figures[key]["value"] for key in ("lower_limit", "upper_limit"))
    return "–" if low is None or high is None else f"{_figure(low, 'ml')} to {_figure(high, 'ml')}"


def _by_others(group: Group) -> str:
    found = group["thresholds"] and group["thresholds"]["by_other_patients"]
    if not found:
        return "–"
    span = f"{found['least']:g}" if found["least"] == found["most"] else f"{found['least']:g} to {found['most']:g}"
    return f"{_figure(found['dice'])} <small>(threshold {span})</small>"


def _plots(evaluation: dict[str, Any], task: str, groups: Sequence[Group], classes: dict[str, str]) -> str:
    single = [group for group in groups if group["source"] in classes]
    figures = []
    for key, unit, words in (
        ("percent_of_lung", "% of the lungs", "Infected share"),
        ("volume_ml", "mL", "Volume"),
    ):
        rows = [
            (row["case"], classes[row["source"]], figure["truth"], figure["called"])
            for row in evaluation["cases"]
            if (figure := row["tasks"].get(task, {}).get(key))
        ]
        whole = next((g[key] for g in reversed(groups) if g[key]), None)
        if rows and whole:
            title = f"{words}: agreement with the truth (Bland-Altman)"
            figures.append((title, bland_altman(rows, whole, unit, title)))
    calibrated = [g for g in single if g["calibration"]]
    if calibrated:
        where = "in the lungs found" if task == "infection" else "in the whole slice"
        title = f"Calibration {where}"
        lines = [(classes[g["source"]], g["calibration"]["bins"]) for g in calibrated]
        figures.append((title, reliability(lines, title)))
        title = "Dice by threshold"
        lines = [(classes[g["source"]], g["thresholds"]["curve"]) for g in calibrated]
        used = _threshold(evaluation, task)
        figures.append((title, threshold_curve(lines, used, title)))
    return '<div class="plots">' + "".join(_figure_box(*one) for one in figures) + "</div>" if figures else ""


def _threshold(evaluation: dict[str, Any], task: str) -> float | None:
    """The one that was used; None where folds have different ones."""
    cards = evaluation["judged"]["cards"]
    used = {card["threshold"] for key, card in cards.items() if key.rpartition("/")[2] == task}
    return used.pop() if len(used) == 1 else None


def _figure_box(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _cases_table(evaluation: dict[str, Any], task: str) -> str:
    rows = [(row, row["tasks"][task]) for row in evaluation["cases"] if task in row["tasks"]]
    rows.sort(key=lambda pair: math.inf if pair[1]["dice"] is None else pair[1]["dice"])
    with_mm = any(row["spacing_mm"] for row, _ in rows)
    more = f"<p>The other {len(rows) - MOST_ROWS:,} cases stand in evaluation.json.</p>" * (len(rows) > MOST_ROWS)
    ticks = "".join(f"<span>{tick}</span>" for tick in ("0", ".2", ".4", ".6", ".8", "1"))
    heads = (
        "case", f'Dice of slices <small>box: quartiles, whiskers: 5 to 95 %, thick mark: whole case</small>'
        f'<span class="scale">{ticks}</span>', "Dice", "precision", "recall",
        *(("HD95, mm", "surface Dice") if with_mm else ()),
        *(("infected %: truth", "called") if task == "infection" else ("volume error, %",)),
    )  # fmt: skip
    lines = []
    for row, figures in rows[:MOST_ROWS]:
        quartiles = figures["slice_dice"]
        seen = ' <b class="seen">seen</b>' if row["seen_by"] else ""
        mm = (_figure(figures["hd95_mm"], "hd95_mm") if not figures["hd95_infinite"] else "∞",
              _figure(figures["surface_dice"])) if with_mm else ()  # fmt: skip
        share = figures["percent_of_lung"] or {"truth": None, "called": None}
        last = (
            (_figure(share["truth"], "ml"), _figure(share["called"], "ml"))
            if task == "infection"
            else (_figure(figures["volume_error_percent"], "ml"),)
        )
        cells = (
            box(quartiles, figures["dice"]) if quartiles else "",
            *(_figure(figures[name]) for name in ("dice", "precision", "recall")), *mm, *last,
        )  # fmt: skip
        count = f"<small>{escape(row['source'])}, {row['slices']} slices</small>"
        lines.append(
            f'<tr><th scope="row"><code>{escape(row["case"])}</code>{seen}{count}</th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f'<table class="cases"><thead><tr>{head}</tr></thead>\n<tbody>\n' + "\n".join(lines) + "\n</tbody></table>"
    return f'<div class="scroll">{table}</div>{more}'


def _shown(task: str, pictures: list[Picture]) -> str:
    """Worst and best slices, no more than two of a case at either end."""
    if not pictures:
        return ""
    ranked = sorted(pictures, key=lambda picture: picture.dice)
    worst = ranked[:MOST_PICTURES]
    best = [picture for picture in reversed(ranked) if picture not in worst][:MOST_PICTURES]
    colours = "lungs outlined in blue, infection filled in red" if task == "infection" else "lungs outlined in blue"
    blocks = []
    for title, chosen in (("Worst slices", worst), ("Best slices", best)):
        if chosen:
            figures = "".join(_picture(one) for one in chosen)
            note = f"<small>scan, truth, call; {colours}</small>"
            blocks.append(f'<h3>{title} {note}</h3>\n<div class="pictures">{figures}</div>')
    return "\n".join(blocks)


def _picture(one: Picture) -> str:
    data = base64.b64encode(one.png).decode()
    words = f"{one.case}, slice {one.number} of {one.of}: Dice {one.dice:.3f}"
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="Scan, truth and call side by side" width="788" '
        'height="260">'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def _without_truth(evaluation: dict[str, Any]) -> str:
    rows = [row for row in evaluation["cases"] if row["calls_without_truth"]]
    if not rows:
        return ""
    cells = "\n".join(
        f'<tr><th scope="row"><code>{escape(row["case"])}</code><small>{escape(row["source"])}</small></th>'
        f"<td>{row['calls_without_truth']['percent_of_lung']:.2f}</td>"
        f"<td>{row['calls_without_truth']['percent_of_aerated_lung']:.2f}</td></tr>"
        for row in rows
    )
    heads = '<th scope="col">case</th><th scope="col">of the lungs, %</th><th scope="col">of aerated lung, %</th>'
    return (
        '<section id="calls-without-truth">\n<h2>Infection called where nobody marked any</h2>\n<div class="scroll">'
        f"<table><thead><tr>{heads}</tr></thead>\n<tbody>\n{cells}\n</tbody></table></div>\n</section>"
    )


def _training(history: dict[str, History | None]) -> str:
    if not history:
        return ""
    figures, missing = [], []
    for task, told in history.items():
        if not told:
            missing.append(task)
            continue
        for label, wanted in EPOCH_LINES.items():
            lines = [(SERIES[k], told[name]) for k, name in enumerate(wanted) if told.get(name)]
            if lines:
                title = f"{task}: {label}"
                figures.append((title, curves(lines, label, title)))
    plots = '<div class="plots">' + "".join(_figure_box(*one) for one in figures) + "</div>" if figures else ""
    legend = (
        '<ul class="legend"><li><i class="key s0"></i>training</li><li><i class="key s1"></i>validation</li></ul>'
        if figures
        else ""
    )
    absent = f'<p class="dim">No history of the training lies beside the card of {" and ".join(missing)}.</p>' * bool(
        missing
    )
    return f'<section id="training">\n<h2>Training</h2>\n{legend}{plots}{absent}\n</section>'


def _left_out(evaluation: dict[str, Any]) -> str:
    if not evaluation["left_out"]:
        return ""
    rows = "".join(
        f"<li><code>{escape(one['case'])}</code> ({escape(one['source'])}): {escape(one['reason'])}</li>"
        for one in evaluation["left_out"]
    )
    return f'<section id="left-out">\n<h2>Left out</h2>\n<ul class="notes">{rows}</ul>\n</section>'


def _foot(evaluation: dict[str, Any]) -> str:
    cards = "".join(
        f"<li>{escape(task)}: <code>{card['sha256']}</code>"
        + (f", threshold {card['threshold']:g}" if card["threshold"] is not None else "")
        + "</li>"
        for task, card in evaluation["judged"]["cards"].items()
    )
    software = ", ".join(f"{name} {value}" for name, value in evaluation["software"].items() if value)
    tolerance = evaluation["settings"]["surface_tolerance_mm"]
    return (
        f'<footer>\n<ul class="notes">{cards}</ul>\n'
        "<p>Both empty: Dice, IoU, precision and recall are undefined and left out of means. Truth empty, something "
        "called: Dice, IoU and precision 0. Nothing called, something there: Dice, IoU and recall 0. F1 of a mask is "
        "its Dice, sensitivity its recall. HD95: the larger of the two directed 95th percentiles of surface distances; "
        "infinite where only one side marks anything, and such cases are counted beside the mean, not in it. "
        f"Surface Dice: share of both surfaces within {tolerance:g} mm of the other.</p>\n"
        f"<p><strong>{escape(evaluation['research_use'])}</strong> Written by covct "
        f"{escape(evaluation['covct_version'])} ({escape(software)}). The same figures stand in evaluation.json.</p>\n"
        "</footer>"
    )


STYLE = """
:root { --page: #f4f6f9; --card: #fff; --text: #17202b; --dim: #55616f; --line: #d8dfe7; --grid: #e6ebf0;
  --bad: #b3183c; --notice: #fff3d6; --notice-line: #d99a1c; --notice-text: #5c3d00; --s0: #0b6bcb; --s1: #c43e00;
  --s2: #2e7d32; --s3: #8a3ab9; --s4: #7a6200; --s5: #00767a; --box: #cfe0f4; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1319; --card: #181e27; --text: #e6ebf1; --dim: #a3afbd;
  --line: #2c3541; --grid: #27303b; --bad: #ff8fa3; --notice: #33270d; --notice-line: #b98518; --notice-text: #ffdc94;
  --s0: #6db3ff; --s1: #ff9a62; --s2: #7ed684; --s3: #d49bff; --s4: #e3c75a; --s5: #58d3d6; --box: #27466b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 28px 40px; max-width: 1320px; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 26px; letter-spacing: -.01em; }
h2 { margin: 36px 0 10px; font-size: 20px; }
h3 { margin: 24px 0 8px; font-size: 16px; }
small { color: var(--dim); font-size: 12.5px; font-weight: 400; }
code { font: 12.5px/1.4 ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
p { margin: 8px 0; }
.dim { color: var(--dim); }
.notice { margin: 12px 0; padding: 10px 14px; border: 1px solid var(--notice-line); border-left-width: 6px;
  border-radius: 6px; background: var(--notice); color: var(--notice-text); font-weight: 650; }
.notice.bad { border-color: var(--bad); }
.notes { margin: 8px 0; padding-left: 20px; }
.notes li { margin-bottom: 3px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 18px 0 8px; padding: 0; list-style: none; }
.key { display: inline-block; width: 14px; height: 4px; margin: 0 6px 3px 0; border-radius: 2px; }
.key.s0 { background: var(--s0); } .key.s1 { background: var(--s1); } .key.s2 { background: var(--s2); }
.key.s3 { background: var(--s3); } .key.s4 { background: var(--s4); } .key.s5 { background: var(--s5); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
table { border-collapse: separate; border-spacing: 0; }
th, td { padding: 7px 14px; text-align: left; vertical-align: top; font-weight: 400; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--dim); font-size: 13px; font-weight: 600; vertical-align: bottom; }
thead small, tbody th small { display: block; }
.fitting { width: fit-content; max-width: 100%; }
.scores thead th { min-width: 160px; }
.scores tbody th small { display: inline; margin-left: 4px; }
.scores td small { white-space: nowrap; }
.cases { width: 100%; }
.cases th:nth-child(2) { width: 45%; min-width: 220px; white-space: normal; }
.cases td:nth-child(2) { padding: 0 14px; }
.cases td { vertical-align: middle; }
.scale { display: flex; justify-content: space-between; margin: 4px -3px 0; font-size: 11.5px; font-weight: 400; }
.box { display: block; width: 100%; height: 46px; }
.grid { stroke: var(--grid); vector-effect: non-scaling-stroke; }
.axis { stroke: var(--dim); }
.whisker { stroke: var(--s0); vector-effect: non-scaling-stroke; }
.quartiles { fill: var(--box); stroke: var(--s0); vector-effect: non-scaling-stroke; }
.median { stroke: var(--s0); stroke-width: 2; vector-effect: non-scaling-stroke; }
.mark { stroke: var(--s1); stroke-width: 4; vector-effect: non-scaling-stroke; }
.seen { color: var(--bad); font-weight: 650; }
.plots { margin-top: 14px; display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); }
figure { margin: 0; padding: 12px; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
figcaption { font-size: 13.5px; font-weight: 600; }
.plot { display: block; width: 100%; max-width: 520px; height: auto; margin: 6px auto 0; }
.plot text { fill: var(--dim); font-size: 11.5px; }
.plot .name { font-size: 12.5px; }
.mid { text-anchor: middle; } .end { text-anchor: end; } .start { text-anchor: start; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); }
.line.s3 { stroke: var(--s3); } .line.s4 { stroke: var(--s4); } .line.s5 { stroke: var(--s5); }
.dot.s0 { fill: var(--s0); } .dot.s1 { fill: var(--s1); } .dot.s2 { fill: var(--s2); }
.dot.s3 { fill: var(--s3); } .dot.s4 { fill: var(--s4); } .dot.s5 { fill: var(--s5); }
.bias { stroke: var(--text); stroke-width: 1.3; }
.limit { stroke: var(--dim); stroke-dasharray: 5 4; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 14px; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 6px; background: #0d1015; }
.pictures figcaption { margin-top: 6px; font-weight: 400; color: var(--dim); }
footer { margin-top: 40px; color: var(--dim); font-size: 13px; }
@media screen and (max-width: 700px) {
  body { padding: 16px 12px 32px; }
  th, td { padding: 6px 9px; }
  figure { padding: 8px; overflow-x: auto; }
  .scores tbody th small { display: block; margin: 0; }
  .cases th:nth-child(2) { min-width: 170px; }
  .cases thead small { display: none; }
  .pictures img { width: 560px; max-width: none; }
}
@media print { body { padding: 0; font-size: 11px; }
  figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
