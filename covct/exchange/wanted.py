"""Which series of an archive a pull takes: chest CT of some days, and what else is asked of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from covct.exchange.archive import OF_STUDY, FoundSeries, FoundStudy
from covct.intake.choice import CHEST_PARTS, FEWEST_SLICES

CHEST = CHEST_PARTS.pattern
ASKED_OF_STUDY = ("StudyDate", "StudyTime")
ASKED_OF_SERIES = ("Modality", "BodyPartExamined", "NumberOfSeriesRelatedInstances")


@dataclass(frozen=True)
class Days:
    """Studies begun from `since` on and before `until`; None: whenever."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def dates(self) -> str:
        """As a range of Study Date (PS3.4 C.2.2.2.5): whole days, of which `hold` lets go what is too much."""
        ends = (self.since, self.until and self.until - timedelta(microseconds=1))
        first, last = (moment.strftime("%Y%m%d") if moment else "" for moment in ends)
        return f"{first}-{last}" if first or last else ""

    def hold(self, study: FoundStudy) -> bool:
        """Whether a study lies within, by its date and time; one without a time by its date alone.

        Study Date and Study Time are the archive's local ones, and so is this machine's clock taken to be.
        """
        date, time = study.told.get("StudyDate", ""), study.told.get("StudyTime", "")
        if not re.fullmatch(r"\d{8}", date):
            return not self.since and not self.until
        clock = re.match(r"\d{2}(\d{2}(\d{2})?)?", time)
        told = date + (clock[0] if clock else "")
        first, last = (moment.strftime("%Y%m%d%H%M%S") if moment else "" for moment in (self.since, self.until))
        if not clock:  # the last day is not wanted where it ends at its first moment
            return (not first or date >= first[:8]) and (not last or date + "000000" < last)
        return (not first or told.ljust(14, "0") >= first) and (not last or told.ljust(14, "0") < last)


@dataclass(frozen=True)
class Wanted:
    """What a series must be.

    Attributes
    ----------
    body_part : re.Pattern
        To be found in Body Part Examined, where there is one: a CT of nobody knows what is looked at.
    patterns : tuple of (str, re.Pattern)
        Keyword of an attribute, and what is to be found in its value.
    fewest : int
        Slices.
    """

    days: Days = Days()
    body_part: re.Pattern[str] = CHEST_PARTS
    patterns: tuple[tuple[str, re.Pattern[str]], ...] = ()
    fewest: int = FEWEST_SLICES

    @property
    def of_study(self) -> tuple[str, ...]:
        """Keywords that are asked for with each study."""
        return (*ASKED_OF_STUDY, *(keyword for keyword, _ in self.patterns if keyword in OF_STUDY))

    @property
    def of_series(self) -> tuple[str, ...]:
        """Keywords that are asked for with each series."""
        return (*ASKED_OF_SERIES, *(keyword for keyword, _ in self.patterns if keyword not in OF_STUDY))

    def why_not(self, series: FoundSeries) -> str:
        """Why a series is left out; empty where it is wanted. Names attributes, never their values."""
        told = series.told
        if told.get("Modality", "CT") != "CT":  # an archive may not match by it
            return "not CT"
        if (part := told.get("BodyPartExamined", "")) and not self.body_part.search(part):
            return "of another part of the body"
        if (count := series.announced) is not None and (why := self.too_few(count)):
            return why
        for keyword, pattern in self.patterns:
            if keyword not in told:
                return f"the archive does not tell {keyword}"
            if not pattern.search(told[keyword]):
                return f"{keyword} does not match"
        return ""

    def too_few(self, count: int) -> str:
        """Why a series of so many slices is left out; empty where it is not."""
        return f"{count} slices, wanted {self.fewest} or more" if count < self.fewest else ""
