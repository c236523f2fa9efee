"""Which series of a study to segment, and why: one rule, the same for the same study whenever it is asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from covct.dicom.header import read_values
from covct.dicom.quotable import quoted_kernel
from covct.errors import SeriesError
from covct.intake.discover import Series
from covct.intake.foreign import described
from covct.intake.image_type import REFORMATTED, kind_of
from covct.intake.split import ENERGY, PHASE

OTHER_PARTS = re.compile(r"HEAD|BRAIN|SKULL|SINUS|NECK|ABDOMEN|PELVIS|KNEE|HIP|LEG|FOOT|ARM|HAND|SPINE")
CHEST_PARTS = re.compile(r"CHEST|THORAX|LUNG|CAP|TAP|BODY|PULM")
EXPIRATION = re.compile(r"\bEXP(IR\w*)?\b|\bEXSP\w*")
FEWEST_SLICES = 3  # a localizer has one or two
DIASTOLE_PERCENT = 75.0  # of the cardiac cycle, where the heart stands still longest: the least motion beside it
USUAL_KV = (
    120  # of the chest CT that networks learn from; lung is much the same at any, contrast medium and bone are not
)
LEAST_COVER = 2 / 3  # of the longest: less is a piece of the chest, however thin its slices


@dataclass(frozen=True)
class Choice:
    """One study's series to segment, with the reasons, and the others with theirs.

    `next_best` are the series that also passed the gate, in order of preference: where the chosen one turns out to
    hold no lungs, or cannot be read, the next takes its place.
    """

    chosen: Series | None
    reasons: tuple[str, ...]
    left_out: tuple[tuple[Series, str, str], ...]  # series, slug, message
    next_best: tuple[Series, ...] = ()

    def without_chosen(self, slug: str, message: str) -> Choice | None:
        """The choice once the chosen series was rejected for this reason; None where no other is left."""
        assert self.chosen is not None
        if not self.next_best:
            return None
        best, *others = self.next_best
        rule = _rule(max(extent_mm(series) for series in self.next_best))
        reasons = (*_reasons(best, others), f"the preferred series was rejected ({slug})")
        refused = tuple(entry for entry in self.left_out if entry[1] != NOT_CHOSEN)
        left_out = tuple(_not_chosen(other, best, rule) for other in others)
        return Choice(best, reasons, (*refused, (self.chosen, slug, message), *left_out), tuple(others))


NOT_CHOSEN, NOT_SELECTED = "not-chosen", "not-selected"


@dataclass(frozen=True)
class Criterion:
    """One line of the rule: `key` orders the series, lowest first; `words` says what a series has of it."""

    key: Callable[[Series], Any]
    words: Callable[[Series], str]


def _rule(longest_mm: float) -> tuple[Criterion, ...]:
    """The rule, most important line first. `longest_mm` is the longest candidate's extent."""
    return (
        Criterion(lambda s: s.kind == "dicom" and len(s.instances) < FEWEST_SLICES, lambda s: _slices(s)),
        Criterion(is_other_part, lambda s: "of another part of the body" if is_other_part(s) else "of the chest"),
        Criterion(lambda s: s.kind == "dicom" and not is_axial(s), lambda s: "axial" if is_axial(s) else "not axial"),
        Criterion(
            lambda s: not s.patient.is_named, lambda s: "naming its patient" if s.patient.is_named else "naming nobody"
        ),
        Criterion(
            lambda s: extent_mm(s) < LEAST_COVER * longest_mm, lambda s: f"{extent_mm(s):.0f} mm from head to feet"
        ),
        Criterion(_is_expiration, lambda s: "in expiration" if _is_expiration(s) else "not in expiration"),
        Criterion(_is_reformatted, lambda s: "reformatted" if _is_reformatted(s) else "original slices"),
        Criterion(lambda s: not is_lung_kernel(_first(s, "kernel", "")), _kernel_words),
        Criterion(lambda s: round(_first(s, "thickness", None) or 99.0, 2), _thickness_words),
        Criterion(lambda s: any(i.lossy for i in s.instances), lambda s: "lossy compression"),
        Criterion(_from_diastole, _phase_words),
        Criterion(_from_120_kv, _energy_words),
        Criterion(lambda s: -len(s.instances), lambda s: _slices(s)),
        Criterion(lambda s: _first(s, "contrast", False), lambda s: "with contrast medium"),
        Criterion(lambda s: _first(s, "temporal_position", None) or 0 if s.part else 0, _part_words),
        Criterion(lambda s: s.folder, _part_words),
    )


def choose(candidates: list[Series], check: Callable[[Series], None]) -> Choice:
    """Choose the series of one study to segment, always the same for the same study.

    The rule, in this order: a series that passes the gate; more slices than a localizer (three or more); not said to be
    of another part of the body; axial slices; naming its patient, before one that names nobody; at least two thirds of
    the longest one's extent; not in expiration; original slices before reformatted ones; a lung or sharp kernel before
    a soft one; thinner slices; without lossy compression; the cardiac phase nearest to 75 %; the tube voltage nearest
    to 120 kV; more slices; no contrast medium; the lowest UID, within a series the lowest number.

    Parameters
    ----------
    candidates : list of Series
        All of one study.
    check : function (Series) -> None
        Raises SeriesError for a series that cannot be segmented.
    """
    good: list[Series] = []
    refused: list[tuple[Series, str, str]] = []
    for series in candidates:
        try:
            check(series)
            good.append(series)
        except SeriesError as error:
            refused.append((series, error.slug, error.message))
    if not good:
        return Choice(None, (), tuple(refused))
    rule = _rule(max(extent_mm(series) for series in good))
    best, *others = sorted(good, key=lambda series: [criterion.key(series) for criterion in rule])
    left_out = tuple(_not_chosen(other, best, rule) for other in others)
    return Choice(best, _reasons(best, others), (*refused, *left_out), tuple(others))


def _not_chosen(other: Series, best: Series, rule: tuple[Criterion, ...]) -> tuple[Series, str, str]:
    decided = next(c for c in rule if c.key(other) != c.key(best))
    described = _described(best)
    if decided.words in (_phase_words, _energy_words) and decided.words(best) not in described:
        described = (*described, decided.words(best))
    return other, NOT_CHOSEN, f"{decided.words(other)}; the chosen series: {'; '.join(described)}"


def _reasons(best: Series, others: list[Series]) -> tuple[str, ...]:
    if best.kind != "dicom":
        return ("the only volume in the file",)
    aside = (f"set aside, as not slices: {described(best.aside)}",) if best.aside else ()
    if not others:
        return ("the only series of the study that can be segmented", *aside)
    return (*_described(best), *aside)


def _described(series: Series) -> tuple[str, ...]:
    words = [_slices(series), _thickness_words(series), _kernel_words(series)]
    words += [word for word in series.part if "kernel" not in word]
    return tuple(word for word in words if word)


def extent_mm(series: Series) -> float:
    """From head to feet: of axial slices from the first to the last and one more, of others that of an image.

    0 where positions are missing; volume files are not compared.
    """
    places = np.array([i.position for i in series.instances if i.position])
    if not len(places):
        return 0.0
    if not is_axial(series):
        spacing = _first(series, "pixel_spacing", None) or (0.0, 0.0)
        return float(spacing[0] * _first(series, "shape", (0, 0))[0])
    end = places[np.argmax(np.linalg.norm(places - places[0], axis=1))]  # the slices come in any order
    return float(np.linalg.norm(places - end, axis=1).max()) + (_first(series, "thickness", None) or 0.0)


def _first(series: Series, name: str, default: Any) -> Any:
    return getattr(series.instances[0], name) if series.instances else default


def is_axial(series: Series) -> bool:
    """Whether the slices lie across the patient; those of a reformat along him. True where nothing says how."""
    cosines = _first(series, "orientation", None)
    return cosines is None or int(np.argmax(np.abs(np.cross(cosines[:3], cosines[3:])))) == 2


def is_other_part(series: Series) -> bool:
    """Whether the header names a part of the body that is not the chest, and not the chest too."""
    part = _first(series, "body_part", "")
    return bool(OTHER_PARTS.search(part) and not CHEST_PARTS.search(part))


def _is_expiration(series: Series) -> bool:
    return bool(EXPIRATION.search(_first(series, "comment", "")))


def telling_words(body_part: str, comment: str) -> tuple[str, str]:
    """What the rule asks of an instance's free text, and no more of it: the rest may hold a patient's name."""
    parts = [match[0] for words in (OTHER_PARTS, CHEST_PARTS) for match in words.finditer(body_part)]
    return " ".join(dict.fromkeys(parts)), "EXP" if EXPIRATION.search(comment) else ""


def _slices(series: Series) -> str:
    count = len(series.instances)
    return f"{count} slice{'s' * (count != 1)}"


def _thickness_words(series: Series) -> str:
    thickness = _first(series, "thickness", None)
    return f"{thickness:g} mm thick" if thickness else ""


def _kernel_words(series: Series) -> str:
    kernel = quoted_kernel(_first(series, "kernel", ""))
    return f"kernel {kernel}" + (" (lung)" if is_lung_kernel(kernel) else "") if kernel else ""


def _is_reformatted(series: Series) -> bool:
    return any(kind_of(instance) == REFORMATTED for instance in series.instances[:1])


def _from_diastole(series: Series) -> float:
    """Percent of the cycle between the cardiac phase and late diastole; 0 of a scan without one."""
    away = abs((_first(series, "phase_percent", None) or 0.0) - DIASTOLE_PERCENT)
    return 0.0 if _first(series, "phase_percent", None) is None else min(away, 100 - away)


def _phase_words(series: Series) -> str:
    phase = _first(series, "phase_percent", None)
    return "without a cardiac phase" if phase is None else PHASE.words(phase)


def _from_120_kv(series: Series) -> int:
    """kV between the tube voltage and the usual one; 0 where the header is silent."""
    return int(abs((_first(series, "kvp", None) or USUAL_KV) - USUAL_KV))


def _energy_words(series: Series) -> str:
    kilovolts = _first(series, "kvp", None)
    return "of unknown tube voltage" if kilovolts is None else ENERGY.words(kilovolts)


def _part_words(series: Series) -> str:
    return f"{', '.join(series.part)}: the lowest decides" if series.part else "the lower UID decides"


def is_lung_kernel(kernel: str) -> bool:
    """GE LUNG, BONE, BONEPLUS, EDGE; Siemens B50 and above; Toshiba FC50 to FC56; Philips L, YC, YD: sharp kernels."""
    name = kernel.upper().strip()
    if name in {"LUNG", "BONE", "BONEPLUS", "EDGE", "L", "YC", "YD"}:
        return True
    siemens = re.match(r"(?:B|BL|BR|BV|I|QR)(\d\d)", name)
    toshiba = re.match(r"FC(\d\d)", name)
    return bool((siemens and int(siemens[1]) >= 50) or (toshiba and 50 <= int(toshiba[1]) <= 56))


def selected(series: Series, uids: tuple[str, ...], patterns: tuple[tuple[str, re.Pattern[str]], ...]) -> bool:
    """Whether the user's own choice takes a series: its UID is among `uids`, and every attribute matches.

    Parameters
    ----------
    uids : tuple of str
        Empty: any.
    patterns : tuple of (str, re.Pattern)
        Keyword of an attribute, and what is to be found in its value in the first slice. NIfTI has no attributes.
    """
    if uids and series.series_uid not in uids:
        return False
    if not patterns:
        return True
    if not series.instances:
        return False
    try:
        values = read_values(series.instances[0].file, tuple(keyword for keyword, _ in patterns))
    except SeriesError:  # gone since it was found
        return False
    return all(pattern.search(values[keyword]) for keyword, pattern in patterns)
