"""Pull chest CT from an archive into an inbox: what is wanted, not known and not there yet, study by study."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from covct.disk.durable import output_errors
from covct.disk.signals import unbroken
from covct.exchange.already import in_inbox, in_ledger
from covct.exchange.archive import Archive, Fetched, FoundSeries, FoundStudy
from covct.exchange.arrivals import STAGING, Arrivals, arriving
from covct.exchange.audit import MINOR_FAILURE, SUCCESS, AuditLog, Instance, Party, audit_log
from covct.exchange.audit import NAME as AUDIT
from covct.exchange.wanted import Wanted
from covct.intake.discover import safe_name
from covct.outputs import Emit

PULL, HERE, KNOWN, LEAVE_OUT = "pull", "here", "known", "leave out"  # verdicts on a series


@dataclass(frozen=True)
class Pull:
    """What is asked for.

    Attributes
    ----------
    inbox : Path
        Where studies go.
    out : Path or None
        The output tree whose ledger says what is known.
    limit : int or None
        Studies.
    pause_s : float
        Between two studies.
    marker : str
        Name of a file that is put into the folder of each study that is whole; empty: none.
    ours : str
        AE title that the audit log calls us by.
    """

    inbox: Path
    out: Path | None = None
    wanted: Wanted = Wanted()
    limit: int | None = None
    pause_s: float = 0.0
    marker: str = ""
    ours: str = "COVCT"


@dataclass(frozen=True)
class Verdict:
    """What is to become of a series.

    Attributes
    ----------
    verdict : str
        PULL, HERE (in the inbox), KNOWN (to the ledger) or LEAVE_OUT.
    missing : dict of str to str
        SOP Instance UIDs to be retrieved, with their SOP Class UIDs.
    count : int or None
        Instances that the archive has of it; None where it was not asked.
    """

    series: FoundSeries
    verdict: str
    why: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    count: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all that the archive has of it is missing."""
        return len(self.missing) == self.count


@dataclass(frozen=True)
class Looked:
    """What is here already, looked at once for all studies."""

    arrivals: Arrivals
    out: Path | None
    present: set[str] = field(repr=False)
    pulled: dict[str, int] = field(repr=False)

    def verdicts(self, archive: Archive, wanted: Wanted, study: FoundStudy) -> list[Verdict]:
        """On each CT series of a study."""
        known = in_ledger(self.out, study.uid) if self.out else set()
        return [self._verdict(archive, wanted, one, known) for one in archive.series(study, wanted.of_series)]

    def _verdict(self, archive: Archive, wanted: Wanted, series: FoundSeries, known: set[str]) -> Verdict:
        if why := wanted.why_not(series):
            return Verdict(series, LEAVE_OUT, why)
        count, before = series.announced, self.pulled.get(series.uid)
        has_grown = before is not None and count is not None and count > before  # it had not been sent whole
        if series.uid in known and not has_grown:
            return Verdict(series, KNOWN, "it has its outcome", count=count)
        gathered = self.arrivals.held(series.study_uid)
        if self.out is None and before is not None and not has_grown and not gathered:  # only the record tells
            return Verdict(series, KNOWN, "it was pulled before", count=count)
        uids = archive.instances(series)
        if why := wanted.too_few(len(uids)):
            return Verdict(series, LEAVE_OUT, why, count=len(uids))
        missing = {uid: of for uid, of in uids.items() if safe_name(uid) not in gathered and uid not in self.present}
        if not missing and self.present.issuperset(uids):
            return Verdict(series, HERE, "it lies in the inbox", count=len(uids))
        why = f"{len(uids) - len(missing)} of its {len(uids)} slices are here" if len(missing) < len(uids) else ""
        return Verdict(series, PULL, why, missing, len(uids))


def pull(order: Pull, archive: Archive, emit: Emit, sleep: Callable[[float], None] = time.sleep) -> Counter[str]:
    """Pull what is wanted, and count studies by what became of them: "pulled", "incomplete", "here", "left out", and
    beyond the limit "not looked at".

    Raises
    ------
    PeerError
        The archive cannot be asked at all. What it does not send of one study ends nothing.
    OutputLocked
        Another process pulls into the inbox.
    OutputNotWritable
        The inbox's disk is full or fails.
    """
    tally: Counter[str] = Counter()
    with output_errors(order.inbox), arriving(order.inbox) as arrivals:
        looked = Looked(arrivals, order.out, in_inbox(order.inbox, order.out), arrivals.record())
        audit = audit_log(order.out or order.inbox, None if order.out else arrivals.staging / AUDIT)
        audit.record("queried", Party(order.ours), archive.party)
        for study in _studies(order, archive, arrivals, emit):
            if order.limit is not None and tally["pulled"] + tally["incomplete"] >= order.limit:
                tally["not looked at"] += 1
                continue
            verdicts = looked.verdicts(archive, order.wanted, study)
            todo = [one for one in verdicts if one.verdict == PULL]
            if not todo:
                tally["here" if any(one.verdict in (HERE, KNOWN) for one in verdicts) else "left out"] += 1
                continue
            if tally["pulled"] + tally["incomplete"]:
                sleep(order.pause_s)
            tally[_one_study(order, archive, arrivals, study, todo, emit, audit)] += 1
    return tally


def foreseen(order: Pull, archive: Archive, emit: Emit) -> Iterator[Verdict]:
    """What a pull would do, series by series; nothing is written and nothing retrieved."""
    arrivals = Arrivals(order.inbox)
    looked = Looked(arrivals, order.out, in_inbox(order.inbox, order.out), arrivals.record())
    for study in _studies(order, archive, arrivals, emit):
        yield from looked.verdicts(archive, order.wanted, study)


def _studies(order: Pull, archive: Archive, arrivals: Arrivals, emit: Emit) -> Iterator[FoundStudy]:
    """What an earlier pull began, whatever the days asked for; then the studies of these days. Each once."""
    keywords, seen = order.wanted.of_study, set()
    for name in arrivals.studies():
        found = next((one for one in archive.studies("", name, keywords) if one.uid == name), None)
        if found is None:
            message = f"the archive does not have it any more; what came of it lies in {STAGING} of the inbox"
            emit({"event": "incomplete", "study": name, "missing": None, "message": message})
        else:
            seen.add(found.uid)
            yield found
    for study in list(archive.studies(order.wanted.days.dates, "", keywords)):
        modalities = study.told.get("ModalitiesInStudy", "CT")
        if study.uid not in seen and order.wanted.days.hold(study) and (not modalities or "CT" in modalities):
            seen.add(study.uid)
            yield study


def _one_study(
    order: Pull,
    archive: Archive,
    arrivals: Arrivals,
    study: FoundStudy,
    todo: list[Verdict],
    emit: Emit,
    audit: AuditLog,
) -> str:
    """Retrieve what is missing of a study and put it into the inbox if it is whole; what became of it."""
    began = time.monotonic()
    wanted = sum(len(one.missing) for one in todo)
    emit({"event": "pulling", "study": study.uid, "series": len(todo), "instances": wanted})
    ended = [_one_series(archive, arrivals, one) for one in todo]
    lacking = {uid for missing, _ in ended for uid in missing}
    came = [Instance(study.uid, of) for one in todo for uid, of in one.missing.items() if uid not in lacking]
    said = "; ".join(dict.fromkeys(fetched.message for _, fetched in ended if fetched.message))
    why = f"{len(lacking)} of {wanted} instances did not come" + (f": {said}" if said else "") if lacking else ""
    outcome = MINOR_FAILURE if lacking else SUCCESS
    audit.record("received", archive.party, Party(order.ours), came, outcome, why)
    if lacking:
        emit({"event": "incomplete", "study": study.uid, "missing": len(lacking), "message": why})
        return "incomplete"
    with unbroken():
        arrivals.hand_over(study.uid, {one.series.uid: one.count or 0 for one in todo}, order.marker)
    seconds = round(time.monotonic() - began, 1)
    emit({"event": "pulled", "study": study.uid, "series": len(todo), "instances": wanted, "seconds": seconds})
    return "pulled"


def _one_series(archive: Archive, arrivals: Arrivals, verdict: Verdict) -> tuple[list[str], Fetched]:
    """The missing instances that still are, and what the archive said."""
    if not verdict.missing:
        return [], Fetched()
    uids, keep = list(verdict.missing), partial(arrivals.keep, verdict.series.study_uid)
    fetched = archive.fetch(verdict.series, uids, verdict.is_whole, keep)
    if fetched.sent_elsewhere is not None:
        return uids[fetched.sent_elsewhere :], fetched
    held = arrivals.held(verdict.series.study_uid)
    return [uid for uid in uids if safe_name(uid) not in held], fetched
