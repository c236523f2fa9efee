"""Whom a network has learned from: what its card says of it, and of the networks that it started from.

A card lists whom it held out, by source, and hashes of whom it learned from. An older card lists only whom it held out:
it has learned from everyone else whom the later cards of its line know of in that source, and where none of them tells,
from any other patient. Of a source that it does not name nobody was learned from. Since a network that starts from
another keeps what that one learned, its card carries the same of all its ancestors. Asked by training (`--initial`,
`--restorer`) and by evaluation alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from covct.data.cases import BY_LAYOUT, OWN, PERSON, aliases, identity, person_of
from covct.errors import WeightsError
from covct.networks.cards import Card

Told = Mapping[str, Any]


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
    kept = ("held_out_patients", "learned_patients")
    own = {key: card.training[key] for key in kept if key in card.training}
    return [{"task": card.task, "sha256": card.sha256, **own}, *(dict(one) for one in _earlier(card))]


def has_learned_from(card: Card, source: str, patient: str) -> bool:
    """Whether the network, or one that it started from, has learned from a patient of a source.

    A person whose name tells who he is (`identity`) is known again in any source.

    Raises
    ------
    WeightsError
        The card's ancestors are none.
    """
    line = (card.training, *_earlier(card))
    known = _known_people(line)
    return any(_knows(told, source, patient, known) for told in line)


def two_names(card: Card) -> dict[str, list[str]]:
    """People whom a card knows by two names: the one that it holds out, and those that it has learned from.

    Only where both names are public: others are kept as hashes.
    """
    learned = card.training.get("learned_patients", {})
    twice = {
        name: [one for one in aliases(name) if one not in names and _hashed(one) in learned.get(source, ())]
        for source, names in card.training.get("held_out_patients", {}).items()
        for name in names
    }
    return {name: others for name, others in twice.items() if others}


def untold(card: Card) -> list[str]:
    """The sha256 of each network, of this one and its ancestors, of which no card says whom it has learned from."""
    chain = ({"sha256": card.sha256, **card.training}, *_earlier(card))
    return [str(told.get("sha256")) for told in chain if "held_out_patients" not in told]


def _earlier(card: Card) -> Iterator[Told]:
    """Of a card from before there were `ancestors` the network that it started from: only its hash is known."""
    ancestors = card.training.get("ancestors")
    if ancestors is None:
        ancestors = [card.training["initial"]] if card.training.get("initial") else []
    if not isinstance(ancestors, list) or not all(isinstance(one, dict) for one in ancestors):
        raise WeightsError(f"card {card.name}: ancestors are {ancestors!r}, wanted a list of objects")
    yield from ancestors


def _knows(told: Told, source: str, patient: str, known: Mapping[str, set[str]]) -> bool:
    held, learned = told.get("held_out_patients", {}), told.get("learned_patients")
    by_layout = [name for name in ((source, OWN) if source in BY_LAYOUT else (source,)) if name in held]
    names = aliases(patient)
    if learned is None:
        if any(name not in known for name in by_layout) or not known:
            return _by_names_alone(held, by_layout, patient)
        learned = {name: known.get(name, set()) - {_hashed(one) for one in held[name]} for name in held}
    if any(_hashed(one) in learned.get(name, ()) for one in names for name in (*by_layout, *([OWN] * bool(by_layout)))):
        return True
    is_told = not identity(source, patient)[0]
    return is_told and any(_hashed(one) in hashes for one in names for hashes in learned.values())


def _known_people(line: Sequence[Told]) -> dict[str, set[str]]:
    """By source, hashes of everyone of whom the cards of a line that list them tell: held out or learned from."""
    known: dict[str, set[str]] = {}
    for told in line:
        for source, hashes in told.get("learned_patients", {}).items():
            held = told.get("held_out_patients", {}).get(source, ())
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
