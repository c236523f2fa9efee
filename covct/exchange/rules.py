"""Which results a destination gets: comparisons such as ``infection_percent >= 5``, all of which have to hold.

Three words each: a field of a result, a comparison, a value. Nothing is evaluated.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from covct.errors import did_you_mean
from covct.results.entries import STATUSES, Entry
from covct.terms import FIGURES

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
RULE = re.compile(r"\s*([a-z_]+)\s*(>=|<=|!=|==|=|>|<)\s*(\S+)\s*")
YES_NO = {"true": True, "false": False}
OUTCOME, LOW_CONFIDENCE, SEVERITY = "outcome", "low_confidence", "severity_class"
FIELDS = (OUTCOME, SEVERITY, LOW_CONFIDENCE, *(figure.name for figure in FIGURES))


@dataclass(frozen=True)
class Rule:
    """A comparison of a result's field with a value.

    Attributes
    ----------
    field : str
        One of FIELDS; figures are those of both lungs.
    comparison : str
        A key of COMPARISONS.
    value : str, bool or float
    """

    field: str
    comparison: str
    value: str | bool | float

    def holds(self, entry: Entry) -> bool:
        """Whether a result is meant. A figure that is withheld is neither above nor below anything: it is not."""
        told = _told(entry, self.field)
        return told is not None and COMPARISONS[self.comparison](told, self.value)

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else str(self.value).lower()
        return f"{self.field} {self.comparison} {value}"


def all_hold(rules: Iterable[Rule], entry: Entry) -> bool:
    """Whether a destination gets a result."""
    return all(rule.holds(entry) for rule in rules)


def parse_rule(text: str) -> Rule:
    """A rule as people write it.

    Raises
    ------
    ValueError
        What was got and what was wanted, with the near field.
    """
    match = RULE.fullmatch(text)
    if not match:
        raise ValueError(f'"{text}", wanted a field, a comparison and a value, such as "infection_percent >= 5"')
    field, comparison, value = match.groups()
    if field not in FIELDS:
        told = did_you_mean(field, FIELDS) or f"wanted one of {', '.join(FIELDS)}"
        raise ValueError(f'"{text}": a result has no {field}; {told}')
    return Rule(field, "=" if comparison == "==" else comparison, _value(field, comparison, value.strip("\"'"), text))


def _value(field: str, comparison: str, value: str, text: str) -> str | bool | float:
    if field in (OUTCOME, LOW_CONFIDENCE):
        if comparison not in ("=", "==", "!="):
            raise ValueError(f'"{text}": {field} has no order, wanted = or !=')
        words = STATUSES if field == OUTCOME else tuple(YES_NO)
        if value not in words:
            raise ValueError(f'"{text}": wanted {field} {comparison} one of {", ".join(words)}')
        return value if field == OUTCOME else YES_NO[value]
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f'"{text}": {value} is no number') from None
    if number != number:
        raise ValueError(f'"{text}": {value} is no number')
    return number


def _told(entry: Entry, field: str) -> str | bool | float | None:
    if field == OUTCOME:
        return entry.status
    if field == LOW_CONFIDENCE:
        return entry.low_confidence
    return entry.severity_class if field == SEVERITY else entry.figure(field)
