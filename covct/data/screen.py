"""What is not learned from: masks that miss their image, cropped lungs, the same pixels under two names."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from covct.data.cases import Case, Labelled, LeftOut

MOST_OUTSIDE = 0.25  # of the infected voxels; radiologists draw over the pleura, not beside the lung
MOST_CROPPED = 0.2  # of the slices with lung: a few touch the border where the field of view is small
MOST_DOUBLED = 0.9  # of the slices: the case is another one under a second name
THUMBNAIL = 24
ALIKE = 0.98  # correlation of thumbnails: two slices of one patient from 0.985, of two patients up to 0.971 in 72 cases
SAME = 0.995  # one image twice


@dataclass
class Screen:
    """Judges cases one after the other, and remembers the slices it has seen.

    Attributes
    ----------
    seen : dict of bytes to (Case, int)
        By digest of the pixels, whichever way up: the first case, and its slice.
    """

    seen: dict[bytes, tuple[Case, int]] = field(default_factory=dict)

    def judge(self, labelled: Labelled) -> tuple[Labelled | None, list[LeftOut]]:
        """What remains of a case (None: nothing), and what is left out of it with the reasons."""
        case = labelled.case
        if reason := _misfit(labelled):
            return None, [LeftOut(case.source, case.name, *reason)]
        bad: dict[int, tuple[str, str]] = {}
        bad.update(_constant(labelled))
        bad.update(_cropped(labelled))
        doubled = self._doubled(labelled)
        bad.update(doubled)
        if len(doubled) >= MOST_DOUBLED * len(labelled):
            slug, message = Counter(doubled.values()).most_common(1)[0][0]
            return None, [LeftOut(case.source, case.name, slug, message)]
        with_lung = 0 if labelled.lungs is None else int(np.count_nonzero(labelled.lungs.any((1, 2))))
        cropped = sum(slug == "cropped" for slug, _ in bad.values())
        if cropped > MOST_CROPPED * max(1, with_lung):
            message = f"lungs touch the border of the image in {cropped} of {with_lung} slices"
            return None, [LeftOut(case.source, case.name, "cropped", message)]
        return _without(labelled, set(bad)), _by_reason(case, bad)

    def _doubled(self, labelled: Labelled) -> dict[int, tuple[str, str]]:
        found = {}
        for index, one in enumerate(labelled.pixels):
            if one.min() == one.max():
                continue
            first, place = self.seen.setdefault(digest(one), (labelled.case, index))
            if first is labelled.case and place == index:
                continue
            whose = "" if first.person == labelled.case.person else ", another patient: a leak between the two"
            found[index] = ("duplicate", f"the same pixels as {first.source} {first.name}{whose}")
        return found


def digest(one: np.ndarray) -> bytes:
    """A digest of a slice (rows, columns), the same however it is flipped."""
    # 8 bit of a picture and of a NIfTI are the same slice
    values = one.astype(np.int16 if one.dtype.kind in "iu" else np.float32)
    rows, columns = values.sum(1, dtype=np.float64), values.sum(0, dtype=np.float64)
    if rows[: len(rows) // 2].sum() > rows[-(len(rows) // 2) :].sum():
        values = values[::-1]
    if columns[: len(columns) // 2].sum() > columns[-(len(columns) // 2) :].sum():
        values = values[:, ::-1]
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes() + str(values.shape).encode(), digest_size=16).digest()


def outside_share(labelled: Labelled) -> float | None:
    """Share of the infected voxels outside the lungs; None without both masks or without infection."""
    if labelled.lungs is None or labelled.infection is None:
        return None
    infected = int(np.count_nonzero(labelled.infection))
    return int(np.count_nonzero(labelled.infection & (labelled.lungs == 0))) / infected if infected else None


def touches_border(mask: np.ndarray) -> np.ndarray:
    """(slices,) bool: whether the mask reaches the border of the slice."""
    edges = [mask[:, 0].any(1), mask[:, -1].any(1), mask[:, :, 0].any(1), mask[:, :, -1].any(1)]
    reaches: np.ndarray = np.logical_or.reduce(edges)
    return reaches


def _misfit(labelled: Labelled) -> tuple[str, str] | None:
    if labelled.lungs is not None and not labelled.lungs.any():
        return "empty-mask", "its lung mask marks nothing; wanted lungs"
    looked_at = labelled.lungs is not None or labelled.classes is not None
    if not looked_at and labelled.infection is not None and not labelled.infection.any():
        return "empty-mask", "its infection mask marks nothing, and there is no lung mask to say that it was looked at"
    outside = outside_share(labelled)
    if outside is not None and outside > MOST_OUTSIDE:
        return "infection-outside-lungs", (
            f"{100 * outside:.0f} % of the infection lies outside the lungs, at most {100 * MOST_OUTSIDE:.0f} % is "
            "taken: the masks may be of another image, or turned"
        )
    if labelled.lungs is not None and labelled.domain != "hu":
        grey = labelled.pixels[labelled.lungs > 0]
        if float(np.median(grey)) <= float(labelled.pixels.min()):
            return "unknown-domain", "the lungs are black: a soft tissue window, in which no infection can be seen"
    return None


def _constant(labelled: Labelled) -> dict[int, tuple[str, str]]:
    flat = labelled.pixels.min((1, 2)) == labelled.pixels.max((1, 2))
    return {int(index): ("constant", "every pixel has one value") for index in np.flatnonzero(flat)}


def _cropped(labelled: Labelled) -> dict[int, tuple[str, str]]:
    if labelled.lungs is None:
        return {}
    touching = np.flatnonzero(touches_border(labelled.lungs))
    return {int(index): ("cropped", "lungs touch the border of the image") for index in touching}


def _by_reason(case: Case, bad: dict[int, tuple[str, str]]) -> list[LeftOut]:
    reasons: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, reason in sorted(bad.items()):
        reasons[reason].append(index)
    return [LeftOut(case.source, case.name, *reason, tuple(indices)) for reason, indices in reasons.items()]


def _without(labelled: Labelled, bad: set[int]) -> Labelled | None:
    kept = np.array([index not in bad for index in range(len(labelled))], bool)
    if kept.all():
        return labelled
    if not kept.any():
        return None
    return replace(
        labelled,
        pixels=labelled.pixels[kept],
        lungs=None if labelled.lungs is None else labelled.lungs[kept],
        infection=None if labelled.infection is None else labelled.infection[kept],
        classes=None if labelled.classes is None else labelled.classes[kept],
        unknown=None if labelled.unknown is None else labelled.unknown[kept],
        numbers=np.flatnonzero(kept) if labelled.numbers is None else labelled.numbers[kept],
    )


@dataclass
class Likeness:
    """Slices that look alike across patients: neighbours of one patient, or a copy, re-encoded or resized."""

    thumbnails: list[np.ndarray] = field(default_factory=list)
    places: list[tuple[Case, int]] = field(default_factory=list)

    def add(self, labelled: Labelled) -> None:
        """Remember a case's slices, unit vectors of their thumbnails after the mean of the slice."""
        for index, one in enumerate(labelled.pixels):
            small = cv2.resize(one.astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
            small -= small.mean()
            norm = float(np.linalg.norm(small))
            if norm:
                self.thumbnails.append(small / norm)
                self.places.append((labelled.case, index))

    def pairs(self, least: float = ALIKE) -> list[tuple[Case, Case, int, float]]:
        """Cases of different patients in slices that look alike: how many pairs of slices, and the highest likeness."""
        if not self.thumbnails:
            return []
        vectors = np.stack(self.thumbnails)
        found: dict[tuple[int, int], list[float]] = defaultdict(list)
        cases = [case for case, _ in self.places]
        numbers = {id(case): number for number, case in enumerate({id(case): case for case in cases}.values())}
        distinct = list({id(case): case for case in cases}.values())
        for start in range(0, len(vectors), 512):
            alike = np.argwhere(vectors[start : start + 512] @ vectors.T >= least)
            for one, other in alike:
                first, second = int(one) + start, int(other)
                if first < second and cases[first].person != cases[second].person:
                    key = numbers[id(cases[first])], numbers[id(cases[second])]
                    found[key].append(float(vectors[first] @ vectors[second]))
        return [(distinct[a], distinct[b], len(values), max(values)) for (a, b), values in sorted(found.items())]
