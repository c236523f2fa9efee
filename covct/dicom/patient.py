"""Who a header says the patient is, and whether two headers can mean one person.

Nothing here holds a name, a number or a date: each value is brought to one spelling and kept as a digest, since all
that is ever asked is whether two are equal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields, replace
from enum import Enum
from hashlib import blake2b
from typing import Any

PATIENT_TAGS = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
# What programs write where they know, or may tell, no patient. As good as empty.
NOBODY = {
    "anon", "anonym", "anonyme", "anonymised", "anonymized", "anonymous", "anonymus", "blank", "deidentified", "empty",
    "n/a", "na", "nil", "noid", "none", "noname", "null", "removed", "unbekannt", "unknown",
}  # fmt: skip
NO_BIRTH_DATES = {"00000000", "00010101", "19000101"}
# Numbers that are given to nobody in particular; never compared over time, whoever else agrees.
GIVEN_TO_ANYBODY = {
    "test", "testpatient", "patient", "dummy", "temp", "tmp", "xyz", "abc", "id", "pid", "mrn", "123", "1234", "12345",
    "123456", "1234567", "12345678", "123456789",
}  # fmt: skip
WORDS_FOR = {
    "PatientID": "Patient ID",
    "IssuerOfPatientID": "issuer of the Patient ID",
    "PatientName": "name",
    "PatientBirthDate": "birth date",
    "PatientSex": "sex",
}
UMLAUTS = str.maketrans({"æ": "a", "œ": "o", "ø": "o", "ł": "l", "đ": "d", "ı": "i"})


class Kin(Enum):
    """Whether two headers mean one person: surely not, perhaps (one of them is silent), or as surely as headers can.

    Apart: each says who it is, and nothing of the one can be held against the other, as a name against a number.
    """

    DIFFERENT = "different"
    APART = "apart"
    UNSURE = "unsure"
    SAME = "same"


@dataclass(frozen=True, order=True)
class Patient:
    """Digests of what identifies a patient; empty where a header is silent.

    Attributes
    ----------
    id : str
        Patient ID: without spaces, in lower case; a number without leading zeros.
    names : str
        The words of family, given and middle name, a digest each, in their order by value: no accents, no capitals,
        ae as a, and whichever came first.
    """

    id: str = ""
    issuer: str = ""
    names: str = ""
    birth_date: str = ""
    sex: str = ""

    @property
    def is_named(self) -> bool:
        """Whether the header says who it is, by number or name."""
        return bool(self.id or self.names)

    @property
    def telling(self) -> int:
        """How many of the attributes the header has."""
        return sum(bool(getattr(self, field.name)) for field in fields(self))

    def kin(self, other: Patient) -> Kin:
        """Whether two headers mean one person.

        ============================  =====================================================================
        Patient ID                    verdict
        ============================  =====================================================================
        differs                       different. A number of another issuer is no number to compare with:
                                      as where one has none
        equal, name agrees            same; different only where birth date *and* sex differ
        equal, name shares a word     same (another spelling, a marriage), unless birth date or sex differ
        equal, another name           same where the birth date is equal and the sex does not differ, else
                                      different: numbers are typed wrongly, and anonymisers repeat them
        equal, one has no name        same, unless birth date or sex differ
        one has none                  different where names are not alike or birth date or sex differ; same
                                      where all words of the name and the birth date are equal; apart where
                                      both are named and share neither a word nor the birth date; else unsure
        ============================  =====================================================================
        """
        ids = None if self.issuer and other.issuer and self.issuer != other.issuer else _equal(self.id, other.id)
        if ids is False:
            return Kin.DIFFERENT
        born, sex = _equal(self.birth_date, other.birth_date), _equal(self.sex, other.sex)
        mine, theirs = set(self.names.split()), set(other.names.split())
        agree = mine <= theirs or theirs <= mine
        if ids is None:
            if not agree or False in (born, sex):
                return Kin.DIFFERENT
            if self.is_named and other.is_named and not mine & theirs and not born:  # half of all are of one sex
                return Kin.APART
            return Kin.SAME if born and mine and mine == theirs else Kin.UNSURE
        if mine and theirs and agree:
            return Kin.DIFFERENT if born is False and sex is False else Kin.SAME
        if mine and theirs and not mine & theirs and not born:
            return Kin.DIFFERENT
        return Kin.DIFFERENT if False in (born, sex) else Kin.SAME

    def kin_to_each(self, one_person: Collection[Patient]) -> set[Kin]:
        """The verdicts with headers that are known to be one person's.

        Who is apart from all of them that name somebody is different; from some only, he is known by the others.
        """
        verdicts = {self.kin(other) for other in one_person}
        if {self.kin(other) for other in one_person if other.is_named} == {Kin.APART}:
            return {Kin.DIFFERENT}
        return verdicts - {Kin.APART}

    def differing(self, other: Patient) -> list[str]:
        """Keywords of the attributes that both have and that are not equal."""
        pairs = zip(PATIENT_TAGS, fields(self), strict=True)
        return [tag for tag, field in pairs if _equal(getattr(self, field.name), getattr(other, field.name)) is False]


def _equal(one: str, other: str) -> bool | None:
    """None where either is silent."""
    return one == other if one and other else None


def why_unsure(one: Patient, other: Patient) -> str:
    """Why results of two headers are not compared over time, in words without a value; empty where they may be.

    Stricter than `Patient.kin`, which keeps the series of one study together: years lie between, hospitals give the
    same numbers, and an anonymiser's patient 1 is anybody. The Patient ID has to be equal and somebody's own, its
    issuer the same, and of name and birth date at least one has to agree and none to differ.
    """
    if why := why_nobody(one) or why_nobody(other):
        return why
    if one.id != other.id:
        return "the Patient IDs differ"
    differing = {tag for tag in one.differing(other) if tag != "PatientName"}
    mine, theirs = set(one.names.split()), set(other.names.split())
    if mine and theirs and not (mine <= theirs or theirs <= mine):
        differing.add("PatientName")
    if differing:
        words = [WORDS_FOR[tag] for tag in PATIENT_TAGS if tag in differing]
        return f"the {_listed(words)} {'differs' if len(words) == 1 else 'differ'}"
    named, born = bool(mine and theirs), bool(one.birth_date and other.birth_date)
    if bool(one.issuer) != bool(other.issuer) and not (named and born):
        return "one of them alone says who issued the Patient ID"
    if not (named or born):
        return "neither a name nor a birth date agrees with it"
    return ""


def why_nobody(one: Patient) -> str:
    """Why a header does not say who it is well enough to compare over time, in words; empty where it does."""
    if not one.id:
        return "the header has no Patient ID"
    if one.id in NOBODYS_OWN:
        return "the Patient ID is one that many have"
    return "" if one.names or one.birth_date else "the header has neither a name nor a birth date beside the Patient ID"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def patient_of(get: Callable[[str], Any]) -> Patient:
    """The patient of a header.

    Parameters
    ----------
    get : function (keyword) -> value
        May raise whatever a damaged value raises: what cannot be read says nothing.
    """
    id_, issuer, name, birth_date, sex = (text_of(get, keyword) for keyword in PATIENT_TAGS)
    if "^" in id_:  # as HL7 sends it: number^check digit^scheme^assigning authority
        id_, *more = id_.split("^")
        issuer = issuer or "".join(more[2:3])
    return Patient(
        _digest(_number(id_)),
        _digest(_squeezed(issuer)),
        " ".join(sorted(_digest(word) for word in set(_words(name)))),
        _digest(_date(birth_date)),
        _digest(sex.strip().upper()[:1] if sex.strip().upper()[:1] in ("M", "F") else ""),
    )


def merged(patients: Iterable[Patient]) -> Patient:
    """All that is known of one person: from each attribute the first that is not empty, the most telling header first.

    Of several spellings of a name the one with most words.
    """
    ordered = sorted(set(patients), key=lambda one: (-one.telling, one))
    known = {
        field.name: next((v for one in ordered if (v := getattr(one, field.name))), "") for field in fields(Patient)
    }
    return Patient(**{**known, "names": max((one.names for one in ordered), key=len, default="")})


def text_of(get: Callable[[str], Any], keyword: str) -> str:
    """A value as text; empty where it is missing or damaged."""
    try:
        value = get(keyword)
        return "" if value is None else str(value).replace("\0", " ")
    except Exception:  # struct, unicode, value errors of a damaged element
        return ""


def _squeezed(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _number(text: str) -> str:
    number = _squeezed(text)
    if number in NOBODY:
        return ""
    return number.lstrip("0") if number.isdecimal() else number


def _date(text: str) -> str:
    digits = re.sub(r"\D", "", text)
    return digits if len(digits) == 8 and digits not in NO_BIRTH_DATES else ""


def _words(name: str) -> list[str]:
    """Of the first group that has any (alphabetic, ideographic, phonetic); no titles, no initials."""
    groups = [group for group in name.split("=") if group.strip("^ ")]
    for components in [groups[0].split("^")[:3], [groups[0]]] if groups else []:
        plain = unicodedata.normalize("NFKD", " ".join(components)).casefold().translate(UMLAUTS)
        plain = "".join(character for character in plain if not unicodedata.combining(character))
        words = re.findall(r"[^\W_]+", re.sub("([aou])e", r"\1", plain))
        longer = [word for word in words if len(word) > 1 or not word.isascii()] or words
        if longer:
            return [word for word in longer if word not in NOBODY]
    return []


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest() if text else ""


def said_once(get: Callable[[str], Any]) -> Patient:
    """The patient of a header, without a name that only repeats the Patient ID, as anonymisers write it."""
    number, name = (
        "".join(re.findall(r"[^\W_]+", text_of(get, tag))).casefold() for tag in ("PatientID", "PatientName")
    )
    who = patient_of(get)
    return replace(who, names="") if name == number else who


NOBODYS_OWN = frozenset(
    _digest(_number(text))
    for text in (*GIVEN_TO_ANYBODY, *(one * count for one in "123456789x-" for count in range(1, 17)))
)
