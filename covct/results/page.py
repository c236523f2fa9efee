"""The night on one self-contained HTML page, worst first. Standard library only."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from html import escape
from itertools import groupby
from urllib.parse import quote

from covct import RESEARCH_USE, __version__
from covct.results.entries import STATUSES, VALID_FOR, Entry, one_line

WITH_PICTURE = 500  # more thumbnails than that no browser scrolls and nobody looks at
OPEN_GROUP = 25  # larger groups of rejected series are folded: a night has hundreds of localizers
LINKS = {
    "report.json": "report",
    "segmentation.seg.dcm": "DICOM SEG",
    "measurements.sr.dcm": "DICOM SR",
    "key-slices.ko.dcm": "DICOM KO",
    "capture-0001.sc.dcm": "capture",
    "lungs.nii.gz": "lungs NIfTI",
    "infection.nii.gz": "infection NIfTI",
    "overlay.png": "picture",
}


def as_html(entries: Iterable[Entry], written: datetime) -> str:
    """The page of the night: self-contained, without scripts; pictures are linked relative to OUT.

    Parameters
    ----------
    entries : iterable of Entry
        In the order of the page, as from `worst_first`.
    written : datetime
    """
    entries = list(entries)
    by_status = {status: [entry for entry in entries if entry.status == status] for status in STATUSES}
    done = by_status["done"]
    body = [
        _top(entries, by_status, written),
        _done_section(done[:WITH_PICTURE], len(done)),
        _compact_section(done[WITH_PICTURE:]),
        _failed_section(by_status["failed"]),
        _rejected_section(by_status["rejected"]),
        f"<footer><p><strong>{escape(RESEARCH_USE)}</strong> Written by covct {escape(__version__)}; left and right "
        "are the patient's. Below the infected share, and across its bar: the interval that it is put in, "
        "as far as scans are like those that was measured on. "
        "The same figures stand in <a href=summary.csv>summary.csv</a>.</p></footer>",
    ]
    # The hash lets exactly our style in; nothing from a DICOM header can load or run anything.
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src 'self' file:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>covct results, {written:%Y-%m-%d %H:%M}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _top(entries: list[Entry], by_status: dict[str, list[Entry]], written: datetime) -> str:
    counts = "".join(
        f'<li class="{status}"><a href="#{status}"><b>{len(by_status[status]):,}</b> {status}</a></li>'
        if by_status[status]
        else f'<li class="{status} none"><b>0</b> {status}</li>'
        for status in STATUSES
    )
    times = sorted(entry.finished for entry in entries if entry.finished)
    span = f" Results from {_time(times[0])} to {_time(times[-1])}." if times else ""
    return (
        "<header>\n<h1>covct results</h1>\n"
        f'<p class="notice" role="note">{escape(RESEARCH_USE)}</p>\n'
        f'<ul class="counts"><li><b>{len(entries):,}</b> series</li>{counts}</ul>\n'
        f'<p class="when">Written <time datetime="{written.isoformat(timespec="seconds")}">'
        f"{written:%Y-%m-%d %H:%M}{_offset(written)}</time>.{span}</p>\n{_severity_tally(by_status['done'])}</header>"
    )


def _severity_tally(done: list[Entry]) -> str:
    """How many series of each class, worst first; the words come from the reports."""
    counts = Counter(entry.severity_class for entry in done)
    labels = {entry.severity_class: entry.severity_label for entry in done}
    if not counts:
        return ""
    order = sorted(counts, key=lambda cls: -(cls or 0))
    chips = "".join(f"<li>{_chip(cls, labels[cls])} <b>{counts[cls]:,}</b></li>" for cls in order)
    return f'<ul class="tally" aria-label="Series by CT severity class"><li class="none">CT severity</li>{chips}</ul>\n'


def _done_section(done: list[Entry], total: int) -> str:
    if not total:
        return '<section id="done"><h2>Done</h2><p>No series has a result yet.</p></section>'
    order = "most infected first" if total == len(done) else f"the {len(done):,} most infected of {total:,}"
    columns = ("Slices", "Infected share", "Volumes", "Series", "Warnings", "Files")
    heads = "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in columns)
    rows = "\n".join(_done_row(entry) for entry in done)
    return (
        f'<section id="done">\n<h2 id="done-title">Done <small>{order}</small></h2>\n'
        f'<table class="series" role="table" aria-labelledby="done-title"><thead role="rowgroup"><tr role="row">{heads}'
        f'</tr></thead>\n<tbody role="rowgroup">\n{rows}\n</tbody></table>\n</section>'
    )


def _done_row(entry: Entry) -> str:
    cells = {
        "slices": _thumbnail(entry),
        "share": _share(entry),
        "volumes": _volumes(entry),
        "identity": _identity(entry),
        "warnings": _warnings(entry),
        "files": _links(entry),
    }
    # Explicit roles: on narrow screens the rows are laid out as cards, which would cost them their meaning.
    row = "".join(
        f'<th scope="row" role="rowheader" class="{name}">{cell}</th>'
        if name == "identity"
        else f'<td role="cell" class="{name}">{cell}</td>'
        for name, cell in cells.items()
    )
    return f'<tr role="row">{row}</tr>'


def _thumbnail(entry: Entry) -> str:
    if "overlay.png" not in entry.files:
        return '<span class="none">no picture</span>'
    target = _href(entry, "overlay.png")
    share = _percent(entry.infection_percent)
    alt = f"Slices with lungs outlined and infection filled, {share} infected; opens in full size"
    return f'<a href="{target}"><img src="{target}" alt="{alt}" width="240" height="202" loading="lazy"></a>'


def _share(entry: Entry) -> str:
    parts = (
        ("right", entry.right_percent, None),
        ("left", entry.left_percent, None),
        ("both", entry.infection_percent, entry.percent_interval),
    )
    bars = "".join(
        f"<dt>{name}</dt><dd>{_bar(value, interval)}<span>{_percent(value)}</span></dd>"
        for name, value, interval in parts
    )
    chip = _chip(entry.severity_class, entry.severity_label)
    if entry.infection_percent is None:
        return f'<p class="percent none">not known</p>{chip}<dl class="bars">{bars}</dl>'
    share = f'<p class="percent">{_percent(entry.infection_percent)}</p>'
    return f'{share}{_interval(entry)}{chip}<dl class="bars">{bars}</dl>'


def _interval(entry: Entry) -> str:
    """Within what bounds the share is put; nothing for older results."""
    if entry.percent_interval is None:
        return ""
    low, high = entry.percent_interval
    doubt = " · <b>low confidence</b>" if entry.low_confidence else ""
    return f'<p class="interval">{low:.1f} to {high:.1f} %{doubt}</p>'


def _bar(percent: float | None, interval: tuple[float, float] | None = None) -> str:
    """The share as a bar from 0 to 100 %, its interval as a line across."""
    width = min(100.0, max(0.0, percent or 0.0))
    reach = ""
    if interval:
        low, high = (min(100.0, end) for end in interval)
        reach = f'<rect class="reach" x="{low:.2f}" y="3" width="{high - low:.2f}" height="2"/>'
    return (
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="rail" width="100" '
        f'height="8"/><rect class="fill" width="{width:.2f}" height="8"/>{reach}</svg>'
    )


def _chip(severity_class: int | None, label: str) -> str:
    if severity_class is None:
        return '<span class="chip c0">no severity class</span>'
    words = f" · {escape(label)}" if label else ""
    return f'<span class="chip c{severity_class}">class {severity_class}{words}</span>'


def _volumes(entry: Entry) -> str:
    rows = (
        ("lungs", entry.lungs_ml),
        ("infection", entry.infection_ml),
        ("ground glass", entry.ground_glass_ml),
        ("consolidation", entry.consolidation_ml),
    )
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{_ml(value)}</dd>' for name, value in rows)}</dl>"


def _identity(entry: Entry) -> str:
    took = f", {entry.seconds:.0f} s" if entry.seconds is not None else ""
    rows = [("file", entry.source)] if entry.source else []
    rows += [("series", _series_name(entry)), ("study", entry.study_instance_uid)]
    named = "".join(f"<dt>{name}</dt><dd><code>{escape(value)}</code></dd>" for name, value in rows if value)
    return f'<dl>{named}</dl><p class="when">{_time(entry.finished)}{took}</p>'


def _series_name(entry: Entry) -> str:
    """The UID, with the acquisition where one series held several; a NIfTI's folder says nothing to a reader."""
    uid, leaf = entry.series_instance_uid, one_line(entry.folder.split("/")[-1])
    return f"{uid} (acquisition {leaf.removeprefix(uid + '-')})" if uid and leaf.startswith(uid + "-") else uid


def _warnings(entry: Entry) -> str:
    denied = [VALID_FOR[name] for name, valid in entry.valid_for if not valid]
    items = [f"<li><b>no {escape(', no '.join(denied))}</b></li>"] if denied else []
    items += [f"<li>{escape(_short(message or slug))}</li>" for slug, message in entry.warnings]
    return f"<ul>{''.join(items)}</ul>" if items else '<span class="none">no warnings</span>'


def _links(entry: Entry) -> str:
    return f"<ul>{''.join(f'<li>{link}</li>' for link in _anchors(entry))}</ul>"


def _anchors(entry: Entry) -> list[str]:
    """One link a kind of file: of the captures, which may be as many as the slices, to the first."""
    captures = sum(name.endswith(".sc.dcm") for name in entry.files)
    labels = {**LINKS, "capture-0001.sc.dcm": f"capture 1 of {captures}"}
    return [f'<a href="{_href(entry, name)}">{labels[name]}</a>' for name in LINKS if name in entry.files]


def _compact_section(rest: list[Entry]) -> str:
    if not rest:
        return ""
    heads = ("Infected", "from to", "right", "left", "Class", "Lungs", "Infection", "Series", "Files")
    rows = (
        (
            _percent(entry.infection_percent),
            _from_to(entry.percent_interval),
            _percent(entry.right_percent),
            _percent(entry.left_percent),
            str(entry.severity_class or "-"),
            _ml(entry.lungs_ml),
            _ml(entry.infection_ml),
            f"<code>{escape(entry.source or _series_name(entry))}</code>",
            " ".join(_anchors(entry)),
        )
        for entry in rest
    )
    return f"<section>\n<h2>Done <small>the other {len(rest):,}</small></h2>\n{_plain_table(heads, rows)}\n</section>"


def _failed_section(failed: list[Entry]) -> str:
    if not failed:
        return ""
    rows = (
        (
            f"<code>{escape(entry.slug)}</code>",
            escape(_short(entry.message)),
            f"<code>{escape(entry.source or _series_name(entry) or one_line(entry.folder))}</code>",
            _time(entry.finished),
        )
        for entry in failed
    )
    table = _plain_table(("Reason", "What happened", "Series", "When"), rows)
    return (
        f'<section id="failed">\n<h2>Failed <small>{len(failed):,}, unexpected; '
        f"<code>covct scan --retry-failed</code> tries them again</small></h2>\n{table}\n</section>"
    )


def _rejected_section(rejected: list[Entry]) -> str:
    if not rejected:
        return ""
    groups = [(slug, list(members)) for slug, members in groupby(rejected, key=lambda entry: entry.slug)]
    groups.sort(key=lambda group: -len(group[1]))
    blocks = []
    for slug, members in groups:
        rows = (
            (
                f"<code>{escape(entry.source or _series_name(entry) or one_line(entry.folder))}</code>",
                escape(_short(entry.message)),
            )
            for entry in members
        )
        unfolded = " open" if len(members) <= OPEN_GROUP else ""
        blocks.append(
            f"<details{unfolded}><summary><code>{escape(slug or 'no reason given')}</code> <b>{len(members):,}</b>"
            f" <span class=when>{escape(_short(members[0].message, 120))}</span></summary>\n"
            f"{_plain_table(('Series', 'Why'), rows)}</details>"
        )
    heading = f"<h2>Rejected <small>{len(rejected):,}, not suitable as input</small></h2>"
    return f'<section id="rejected">\n{heading}\n' + "\n".join(blocks) + "\n</section>"


def _plain_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="plain"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _href(entry: Entry, name: str) -> str:
    return escape(quote(os.fsencode(f"{entry.folder}/{name}")))


def _percent(value: float | None) -> str:
    if value is None:
        return "-"
    return "&lt; 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


def _from_to(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.1f}–{interval[1]:.1f}"


def _ml(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} mL" if value >= 10 else f"{value:.1f} mL"


def _time(finished: str) -> str:
    """An ISO time to the minute; whatever else stands there as it is."""
    try:
        moment = datetime.fromisoformat(finished)
    except ValueError:
        return escape(_short(finished))
    return f"{moment:%Y-%m-%d %H:%M}{_offset(moment)}"


def _offset(moment: datetime) -> str:
    zone = moment.strftime("%z")
    return {"": "", "+0000": " UTC"}.get(zone, f" UTC{zone[:3]}:{zone[3:]}")


def _short(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


STYLE = """
:root { --page: #f4f6f9; --card: #fff; --text: #17202b; --dim: #55616f; --line: #d8dfe7; --link: #0b5cad;
  --rail: #e3e8ee; --fill: #d8284f; --bad: #b3183c; --notice: #fff3d6; --notice-line: #d99a1c; --notice-text: #5c3d00;
  --c0: #e6eaef; --c1: #d5efdd; --c2: #f6ecb8; --c3: #fcdcb4; --c4: #fac9c4; --c5: #8c1136; --c5-text: #fff; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1319; --card: #181e27; --text: #e6ebf1; --dim: #a3afbd;
  --line: #2c3541; --link: #7cb8f5; --rail: #2d3744; --fill: #ff4668; --bad: #ff8fa3; --notice: #33270d;
  --notice-line: #b98518; --notice-text: #ffdc94; --c0: #2d3744; --c1: #1d4630; --c2: #4d4413; --c3: #5c3a12;
  --c4: #6b2522; --c5: #ff9db0; --c5-text: #38000f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 28px 40px; max-width: 1500px; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
h1 { margin: 0; font-size: 26px; letter-spacing: -.01em; }
h2 { margin: 36px 0 10px; font-size: 20px; }
small { color: var(--dim); font-size: 14px; font-weight: 400; margin-left: 6px; }
a { color: var(--link); text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
code { font: 12.5px/1.4 ui-monospace, "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
ul, dl, p { margin: 0; padding: 0; }
ul { list-style: none; }
.none, .when { color: var(--dim); }
.when { font-size: 13px; }
.notice { margin: 12px 0 16px; padding: 10px 14px; border: 1px solid var(--notice-line); border-left-width: 6px;
  border-radius: 6px; background: var(--notice); color: var(--notice-text); font-weight: 650; }
.counts, .tally { display: flex; flex-wrap: wrap; gap: 10px; }
.counts { margin-bottom: 12px; }
.counts li { min-width: 116px; padding: 10px 16px; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); }
.counts b { display: block; font-size: 26px; line-height: 1.15; font-variant-numeric: tabular-nums; }
.counts li.failed:not(.none) b { color: var(--bad); }
.tally { margin-top: 10px; gap: 8px 18px; align-items: baseline; }
.chip { display: inline-block; padding: 2px 10px; border-radius: 99px; font-size: 13px; font-weight: 600;
  background: var(--c0); white-space: nowrap; }
.c1 { background: var(--c1); } .c2 { background: var(--c2); } .c3 { background: var(--c3); }
.c4 { background: var(--c4); } .c5 { background: var(--c5); color: var(--c5-text); }
table { width: 100%; border-collapse: separate; border-spacing: 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
th, td { padding: 12px 14px; text-align: left; vertical-align: top; font-weight: 400;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { padding: 8px 14px; color: var(--dim); font-size: 13px; font-weight: 600; }
.slices { width: 268px; }
.slices img { display: block; width: 240px; height: auto; border-radius: 6px; background: #0d1015;
  color: #a8b2be; font-size: 12px; }
.share { width: 250px; }
.percent { margin-bottom: 6px; font-size: 28px; line-height: 1.1; font-weight: 680;
  font-variant-numeric: tabular-nums; }
.interval { margin: -2px 0 8px; font-size: 13px; color: var(--dim); font-variant-numeric: tabular-nums; }
.interval b { color: var(--bad); font-weight: 650; }
.reach { fill: var(--text); }
.percent.none { font-size: 20px; font-weight: 500; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; }
dt { color: var(--dim); }
dd { margin: 0; }
.bars { margin-top: 12px; font-size: 13px; align-items: center; }
.bars dd { display: flex; align-items: center; gap: 10px; }
.bars svg { flex: 1; height: 8px; border-radius: 4px; }
.bars span { width: 56px; text-align: right; font-variant-numeric: tabular-nums; }
.rail { fill: var(--rail); } .fill { fill: var(--fill); }
.volumes { width: 210px; }
.volumes dd { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.identity { min-width: 210px; }
.identity .when { margin-top: 6px; }
.warnings { min-width: 170px; }
.warnings li { margin-bottom: 6px; overflow-wrap: anywhere; }
.files { width: 130px; }
.files li { margin-bottom: 4px; white-space: nowrap; }
.scroll { overflow-x: auto; }
.plain { font-size: 14px; }
.plain th, .plain td { padding: 7px 14px; }
.plain td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.plain td:has(a) { white-space: nowrap; }
.plain td:has(code) { min-width: 110px; }
details { margin-bottom: 12px; }
summary { padding: 6px 2px; cursor: pointer; }
summary b, summary span { margin-left: 6px; }
details[open] summary span { display: none; }
details th:first-child { width: 42%; }
footer { margin-top: 40px; color: var(--dim); font-size: 13px; }
@media screen and (max-width: 1300px) {
  .series thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .series, .series tbody { display: block; }
  .series tr { display: grid; grid-template-columns: 268px 1fr 1fr; border-bottom: 1px solid var(--line); }
  .series tr > * { width: auto; min-width: 0; border: 0; }
  .series .slices { grid-row: span 3; }
  .series .files { grid-column: 2 / -1; }
  .files ul { display: flex; flex-wrap: wrap; gap: 4px 16px; }
}
@media screen and (max-width: 700px) {
  body { padding: 16px 14px 32px; }
  .counts { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }
  .counts li { min-width: 0; padding: 8px 12px; }
  .series tr { display: block; padding: 6px 0; }
  .series tr > * { display: block; padding: 8px 14px; }
  .slices img { width: 100%; }
}
@media print {
  :root { --page: #fff; --card: #fff; --text: #000; --dim: #444; --line: #bbb; --link: #000; --rail: #ddd;
    --fill: #a0102f; --bad: #900; --notice: #fff; --notice-line: #000; --notice-text: #000; --c0: #eee; --c1: #eee;
    --c2: #eee; --c3: #ddd; --c4: #ccc; --c5: #000; --c5-text: #fff; }
  body { padding: 0; font-size: 10.5px; }
  code, .when, .bars, .chip, .plain, thead th, small { font-size: 9.5px; }
  h2 { margin-top: 18px; font-size: 15px; break-after: avoid; }
  th, td, .plain th, .plain td { padding: 6px 8px; }
  table { overflow: visible; }
  tr { break-inside: avoid; }
  .series > tbody > tr > *, .series > thead > tr > * { width: auto; min-width: 0; }
  .series .slices img { width: 122px; }
  .series > tbody > tr > .share { width: 125px; }
  .series > tbody > tr > .identity { width: 25%; }
  .series > tbody > tr > .warnings { width: 21%; }
  .identity dl { display: block; }
  .percent, .percent.none { font-size: 17px; }
  .bars { margin-top: 6px; }
  .bars span { width: 38px; }
  .interval { font-size: 9.5px; margin: 0 0 4px; }
  .counts li { padding: 5px 10px; min-width: 80px; }
  .counts b { font-size: 16px; }
  .bars svg, .chip { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .chip { white-space: normal; }
  .series .files, .series th:last-child { display: none; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
}
"""
