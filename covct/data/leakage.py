"""Whom a network has learned from: what its card says of it, and of the networks that it started from.

A card lists whom it held out, by source, and hashes of whom it learned from. An older card lists only whom it held out:
it has learned from everyone else whom the later cards of its line know of in that source, and where none of them tells,
from any other patient. Of a source that it does not name nobody was learned from. Since a network that starts from
another keeps what that one learned, its card carries the same of all its ancestors. Asked by training (`--initial`,
`--restorer`) and by evaluation alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from covct.data.cases import BY_LAYOUT, OWN, PERSON, aliases, identity, person_of
from covct.networks.cards import Card, lineage
from covct.networks.lineage import Lineage


def learned_patients(patients: Mapping[str, Sequence[str]], held_out: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """By source, a hash of everyone who is not held out: names of files need not travel with weights.

    Cards had none before: then whoever is not held out counts.
    """
    return {
        source: sorted({_hashed(name) for name in names if name not in held_out.get(source, ())})
        for source, names in patients.items()
    }


def ancestors_of(card: Card) -> list[dict[str, Any]]:
    """What the card of a network that starts from this one has to say of it, and of whatever it started from itself."""
    own = lineage(card)
    first = Lineage(
        task=card.task,
        sha256=card.sha256,
        held_out_patients=own.held_out_patients,
        learned_patients=own.learned_patients,
    )
    return [one.model_dump(exclude_none=True) for one in (first, *_earlier(own))]


def has_learned_from(card: Card, source: str, patient: str) -> bool:
    """Whether the network, or one that it started from, has learned from a patient of a source.

    A person whose name tells who he is (`identity`) is known again in any source.
    """
    line = _line(card)
    known = _known_people(line)
    return any(_knows(one, source, patient, known) for one in line)


def two_names(card: Card) -> dict[str, list[str]]:
    """People whom a card knows by two names: the one that it holds out, and those that it has learned from.

    Only where both names are public: others are kept as hashes.
    """
    told = lineage(card)
    learned = told.learned_patients or {}
    twice = {
        name: [one for one in aliases(name) if one not in names and _hashed(one) in learned.get(source, ())]
        for source, names in (told.held_out_patients or {}).items()
        for name in names
    }
    return {name: others for name, others in twice.items() if others}


def untold(card: Card) -> list[str]:
    """The sha256 of each network, of this one and its ancestors, of which no card says whom it has learned from."""
    return [str(one.sha256) for one in _line(card) if one.held_out_patients is None]


def _line(card: Card) -> list[Lineage]:
    """The network and those before it."""
    own = lineage(card).replaced(sha256=card.sha256)
    return [own, *_earlier(own)]


def _earlier(own: Lineage) -> list[Lineage]:
    """Of a card from before there were `ancestors` the network that it started from: only its hash is known."""
    if own.ancestors is None:
        return [own.initial] if own.initial else []
    return own.ancestors


def _knows(told: Lineage, source: str, patient: str, known: Mapping[str, set[str]]) -> bool:
    held, learned = told.held_out_patients or {}, told.learned_patients
    by_layout = [name for name in ((source, OWN) if source in BY_LAYOUT else (source,)) if name in held]
    names = aliases(patient)
    if learned is None:
        if any(name not in known for name in by_layout) or not known:
            return _by_names_alone(held, by_layout, patient)
        learned = {name: sorted(known.get(name, set()) - {_hashed(one) for one in held[name]}) for name in held}
    if any(_hashed(one) in learned.get(name, ()) for one in names for name in (*by_layout, *([OWN] * bool(by_layout)))):
        return True
    is_told = not identity(source, patient)[0]
    return is_told and any(_hashed(one) in hashes for one in names for hashes in learned.values())


def _known_people(line: Sequence[Lineage]) -> dict[str, set[str]]:
    """By source, hashes of everyone of whom the cards of a line that list them tell: held out or learned from."""
    known: dict[str, set[str]] = {}
    for told in line:
        for source, hashes in (told.learned_patients or {}).items():
            held = (told.held_out_patients or {}).get(source, ())
            known.setdefault(source, set()).update(hashes, map(_hashed, held))
    return known


def _by_names_alone(held: Mapping[str, Sequence[str]], by_layout: Sequence[str], patient: str) -> bool:
    """Of a card where nobody lists who there was: any other patient of the source, and any of a public set."""
    person = person_of(patient)
    held_here = any(one in held[name] for name in by_layout for one in (patient, *aliases(patient)))
    return bool(by_layout and not held_here) or (PERSON.fullmatch(person) is not None and _may_hold(held, person))


def _may_hold(held: Mapping[str, Sequence[str]], person: str) -> bool:
    """Of a card without hashes: whether it names a source of the public set that this person is of, but not him."""
    others = {person_of(name) for names in held.values() for name in names}
    return person not in others and ("ma" in held or any(PERSON.fullmatch(other) for other in others))


def _hashed(name: str) -> str:
    return hashlib.sha256(person_of(name).encode("utf-8", "surrogateescape")).hexdigest()[:12]
