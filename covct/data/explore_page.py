"""What was found in a folder of training data, as one self-contained HTML page with plots and slices to look at."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from covct import RESEARCH_USE, __version__
from covct.data.explore import EXAMPLES, TISSUES, Example, Exploration, Histogram
from covct.data.facts import CLASS_NAMES, Facts
from covct.data.screen import SAME
from covct.voxels.overlay import paint

PLOT = (640, 240)  # of a plot, in units of its SVG
LEFT, BOTTOM, TOP = 44, 34, 12
BAR = 18
LONGEST_LIST = 400  # rows of a table; a browser scrolls no more, and the JSON has all


def as_html(found: Exploration, title: str) -> str:
    """The page. `title` names the folder. Patients are the groups of the layout, of DICOM a hash."""
    body = [
        f"<h1>Training data: {escape(title)}</h1>\n<p class=note>{escape(RESEARCH_USE)}</p>",
        _section("Sources", _sources(found) + _mixing(found)),
        _section("Left out", _left_out(found)),
        _section("Alike across patients", _alike(found)) if found.alike else "",
        _section("Doubtful", _doubtful(found)) if found.doubtful else "",
        _section("Intensities", "".join(_histogram(name, one) for name, one in sorted(found.histograms.items()))),
        _section("Class balance", _balance(found)),
        _section("Slices per patient", _per_patient(found.facts)),
        _section("Examples", _examples(found.examples)),
        _section("Cases", _cases(found.facts)),
        f"<footer>{escape(RESEARCH_USE)} Written by covct {escape(__version__)}; left and right are the "
        "patient's. The same figures stand in explore.json.</footer>",
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>covct explore: {escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _section(title: str, contents: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{contents}\n</section>"


def _doubtful(found: Exploration) -> str:
    rows = [[escape(one[name]) for name in ("source", "case", "message")] for one in found.doubtful]
    return "<p>Learned from all the same: only size or position is in doubt.</p>" + _table(
        ["source", "case", "what"], rows
    )


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML. Scrolls sideways on a narrow screen."""
    head = "".join(f"<th scope=col>{name}</th>" for name in heads)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[:LONGEST_LIST])
    more = f"<p>{len(rows) - LONGEST_LIST} more in explore.json.</p>" if len(rows) > LONGEST_LIST else ""
    return f"<div class=wide><table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>{more}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text; a dash where it is not known."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _sources(found: Exploration) -> str:
    rows = [
        [
            escape(one["source"]),
            escape(one["layout"]),
            f"<b>{one['domain']}</b><small>to HU {escape(one['to_hu'])}</small>",
            str(one["cases"]),
            str(one["patients"]),
            str(one["slices"]),
            ", ".join(one["shapes"][:2]) + (f" and {len(one['shapes']) - 2} more" if len(one["shapes"]) > 2 else ""),
            _count(one["without_lung"]),
            _count(one["without_infection"]),
            percent(one["infection_share"]),
        ]
        for one in found.sources()
    ]
    heads = ["source", "layout", "domain", "cases", "patients", "slices", "size", "without lung", "without infection"]
    return _table([*heads, "infection of lung, mean"], rows) if rows else "<p>No case can be learned from.</p>"


def _mixing(found: Exploration) -> str:
    domains = sorted({one.domain for one in found.facts})
    if len(domains) < 2:
        return ""
    return (
        f"<p class=note>{len(domains)} domains ({', '.join(domains)}): each is brought to Hounsfield units in its own "
        "way; a source whose domain also tells its label would teach a network the domain.</p>"
    )


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _left_out(found: Exploration) -> str:
    if not found.left_out:
        return "<p>Nothing.</p>"
    tally = Counter(one.slug for one in found.left_out)
    chips = "".join(f"<li><b>{count}</b> {escape(slug)}</li>" for slug, count in tally.most_common())
    rows = [
        [
            f"<b>{escape(one.slug)}</b>",
            escape(one.message),
            escape(one.source),
            escape(one.case),
            f"{len(one.slices)} slices" if one.slices else "all",
        ]
        for one in found.left_out
    ]
    return f"<ul class=chips>{chips}</ul>" + _table(["reason", "got and wanted", "source", "case", "what"], rows)


def _alike(found: Exploration) -> str:
    rows = [[" and ".join(map(escape, one["cases"])), str(one["slices"]), str(one["likeness"])] for one in found.alike]
    return (
        "<p>Slices of two patients that look alike: perhaps one patient, or one image, under two names, and a leak "
        "where a split comes between. They are not left out; training takes own cases for one patient from a "
        f"correlation of {SAME} on.</p>" + _table(["cases", "pairs of slices", "correlation"], rows)
    )


def _histogram(name: str, one: Histogram) -> str:
    """Share of the voxels of each tissue by intensity, as lines."""
    width, height = PLOT
    low, high = float(one.edges[0]), float(one.edges[-1])
    centres = (one.edges[:-1] + one.edges[1:]) / 2
    curves, keys = [], []
    shares = {tissue: counts / counts.sum() for tissue, counts in one.counts.items() if counts.sum()}
    # Air around the patient would flatten every other curve.
    most = max((float(np.sort(share)[-3]) for share in shares.values()), default=1.0) * 1.15 or 1.0
    for tissue, share in shares.items():
        points = " ".join(
            f"{_across(x, low, high):.1f},{height - BOTTOM - min(1.0, y / most) * (height - BOTTOM - TOP):.1f}"
            for x, y in zip(centres, share, strict=True)
        )
        kind = TISSUES.index(tissue)
        curves.append(f'<polyline class="c{kind}" points="{points}"/>')
        keys.append(f'<li class="k{kind}">{tissue}</li>')
    ticks = "".join(
        f'<text x="{_across(value, low, high):.0f}" y="{height - 14}" text-anchor="middle">{value:g}</text>'
        for value in np.linspace(low, high, 9).round()
    )
    return (
        f"<figure><figcaption>{escape(name)}, {one.unit}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Histogram of {escape(name)}">'
        f'<line x1="{LEFT}" x2="{width - 10}" y1="{height - BOTTOM}" y2="{height - BOTTOM}"/>{ticks}'
        f'<text x="{width - 10}" y="{height - 1}" text-anchor="end">{one.unit}</text>{"".join(curves)}</svg>'
        f"<ul class=keys>{''.join(keys)}</ul></figure>"
    )


def _across(value: float, low: float, high: float) -> float:
    return LEFT + (value - low) / (high - low) * (PLOT[0] - LEFT - 10)


def _balance(found: Exploration) -> str:
    """For each source: slices by what they hold, and the classes of disease."""
    bars = []
    for one in found.sources():
        some = [f for f in found.facts if (f.source, f.domain) == (one["source"], one["domain"])]
        total = one["slices"]
        labelled = sum(f.shape[0] for f in some if f.without_infection is not None)
        infected = labelled - sum(f.without_infection or 0 for f in some)
        parts: list[tuple[str, float]] = [("with infection", infected), ("without", labelled - infected)]
        clean = sum(f.shape[0] for f in some if f.negative)
        parts += [("of people without COVID-19", clean), ("not labelled", total - labelled - clean)]
        bars.append(_bar(f"{one['source']}, slices", parts))
        shares = [f.class_shares for f in some if f.class_shares]
        if shares:
            classes = [
                (name.replace("_", " "), float(np.mean([s[name] for s in shares]))) for name in CLASS_NAMES.values()
            ]
            bars.append(_bar(f"{one['source']}, kinds of disease (mean over cases)", classes, as_percent=True))
    return "".join(bars)


def _bar(title: str, parts: Sequence[tuple[str, float]], as_percent: bool = False) -> str:
    total = sum(value for _, value in parts) or 1
    x, rects, keys = 0.0, [], []
    for kind, (name, value) in enumerate(parts):
        if not value:
            continue
        wide = 640 * value / total
        rects.append(f'<rect class="b{kind}" x="{x:.1f}" y="0" width="{wide:.1f}" height="{BAR}"/>')
        x += wide
        figure = percent(value) if as_percent else f"{int(value)}"
        keys.append(f'<li class="k{kind}">{escape(name)}: {figure}</li>')
    return (
        f'<figure class=balance><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 640 {BAR}" role="img" '
        f'aria-label="{escape(title)}">{"".join(rects)}</svg><ul class=keys>{"".join(keys)}</ul></figure>'
    )


def _per_patient(facts: list[Facts]) -> str:
    """Bars, most slices first; patients of one slice are told together."""
    out = []
    for source in sorted({one.source for one in facts}):
        counts: Counter[str] = Counter()
        for one in facts:
            if one.source == source:
                counts[one.patient] += one.shape[0]
        single = sum(count == 1 for count in counts.values())
        several = [(patient, count) for patient, count in counts.most_common() if count > 1][:60]
        note = f" {single} patients with one slice." if single else ""
        most = max((count for _, count in several), default=1)
        lines = "".join(
            f'<text x="0" y="{20 * row + 14}">{escape(patient[:26])}</text>'
            f'<rect class="b1" x="190" y="{20 * row + 3}" width="{400 * count / most:.1f}" height="14"/>'
            f'<text x="{196 + 400 * count / most:.1f}" y="{20 * row + 14}">{count}</text>'
            for row, (patient, count) in enumerate(several)
        )
        plot = (
            f'<svg viewBox="0 0 640 {20 * len(several)}" role="img" aria-label="Slices per patient">{lines}</svg>'
            if several
            else ""
        )
        out.append(f"<figure><figcaption>{escape(source)}: {len(counts)} patients.{note}</figcaption>{plot}</figure>")
    return "".join(out)


def _examples(examples: list[Example]) -> str:
    tiles = "".join(
        f'<figure class=tile><img src="data:image/png;base64,{_png(one)}" width="256" height="256" '
        f'alt="{escape(one.case)}, slice {one.index + 1}, lungs outlined and infection filled">'
        f"<figcaption>{escape(one.source)}<br>{escape(one.case)}, slice {one.index + 1}</figcaption></figure>"
        for one in examples
    )
    return (
        f"<p>Of {EXAMPLES} cases of each source, as a network sees them: lungs outlined, infection filled. CLAHE "
        f"slices without a restorer are shown in their own greys.</p><div class=sheet>{tiles}</div>"
    )


def _png(one: Example) -> str:
    image = paint(one.hu, one.lungs == 1, one.lungs == 2, one.infection)
    _, png = cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return base64.b64encode(png.tobytes()).decode()


def _cases(facts: list[Facts]) -> str:
    rows = [
        [
            escape(one.source),
            escape(one.name),
            f'<span title="{escape(one.told_by)}">{one.domain}</span>',
            " x ".join(map(str, one.shape)),
            " x ".join(f"{mm:.3g}" for mm in one.spacing_mm) if one.spacing_mm else "–",
            f"{one.intensity[1]:.0f} … {one.intensity[3]:.0f}",
            escape(one.orientation),
            ", ".join(one.labels) + (" (negative)" if one.negative else ""),
            percent(one.infection_share),
            _count(one.without_lung),
            _count(one.without_infection),
            str(one.cropped),
            "–" if one.healthy is None else f"{one.healthy:.0f}",
            "–" if one.infected is None else f"{one.infected:.0f}",
        ]
        for one in facts
    ]
    heads = ["source", "case", "domain", "shape", "spacing, mm", "intensity, 0.5 to 99.5 %", "orientation", "labels"]
    heads += ["infection of lung", "without lung", "without infection", "cropped", "healthy lung", "infected lung"]
    return _table(heads, rows)


STYLE = """
:root{--ink:#1b2430;--dim:#5b6775;--line:#d5dbe2;--paper:#fff;--note:#8a5a00;
--a:#3a7bd5;--b:#2a9d6f;--c:#d8365f;--d:#b9c2cc}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--dim:#a8b2be;--line:#2c333d;--paper:#0d1015;--note:#ffc457;
--a:#5cb6f0;--b:#6fd3a5;--c:#ff4668;--d:#4a5462}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1180px;margin:0 auto;
padding:16px}
h1{font-size:1.5em;margin:.4em 0}h2{font-size:1.15em;margin:1.6em 0 .5em;border-bottom:1px solid var(--line)}
.note{color:var(--note)}small,figcaption,footer{color:var(--dim)}footer{margin:2.5em 0 1em}
.wide{overflow-x:auto;max-height:70vh;overflow-y:auto}
table{border-collapse:collapse;font-size:.86em}th,td{text-align:left;vertical-align:top;padding:4px 10px 4px 0;
border-bottom:1px solid var(--line);overflow-wrap:break-word}td{max-width:26em;overflow-wrap:anywhere;min-width:4em}
td small{display:block;min-width:13em}
thead th{position:sticky;top:0;background:var(--paper);overflow-wrap:normal}
ul.chips,ul.keys{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:4px 16px;margin:.4em 0}
ul.keys li::before{content:"";display:inline-block;width:12px;height:12px;margin-right:6px;vertical-align:-1px;
background:var(--d)}
figure{margin:.6em 0 1.2em;max-width:760px;overflow-x:auto}svg{width:100%;min-width:480px;height:auto;display:block}
svg text{fill:var(--dim);font:11px system-ui,sans-serif}svg line{stroke:var(--line)}
polyline{fill:none;stroke-width:2}.c0{stroke:var(--d)}.c1{stroke:var(--a)}.c2{stroke:var(--c)}
ul.keys .k0::before{background:var(--d)}ul.keys .k1::before{background:var(--a)}ul.keys .k2::before{background:var(--c)}
.b0{fill:var(--c)}.b1{fill:var(--a)}.b2{fill:var(--b)}.b3{fill:var(--d)}
svg+ul.keys{margin-top:6px}
.balance ul.keys .k0::before{background:var(--c)}.balance ul.keys .k2::before{background:var(--b)}
.balance ul.keys .k3::before{background:var(--d)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:10px}
.tile{margin:0}
.tile img{width:100%;height:auto;border-radius:4px}.tile figcaption{font-size:.8em;overflow-wrap:anywhere}
"""
