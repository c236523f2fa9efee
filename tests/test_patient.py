"""Whose slice it is: two headers of one person, of two, and those that do not say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covct.dicom.patient import PATIENT_TAGS, Kin, Patient, merged, patient_of

KEYWORDS = dict(zip(("id", "issuer", "name", "born", "sex"), PATIENT_TAGS, strict=True))


def who(**attributes) -> Patient:
    header = {KEYWORDS[name]: value for name, value in attributes.items()}
    return patient_of(header.get)


JANE = {"id": "4711", "name": "Müller^Jane", "born": "19500101", "sex": "F"}


@pytest.mark.parametrize(
    "same",
    [
        {"id": "0004711 "},
        {"id": " 4711\0"},
        {"id": "4711^5^M11^CLINIC"},
        {"name": "MULLER^JANE"},
        {"name": "Mueller^Jane^^Dr."},
        {"name": "Müller^Jane=ミュラー^ジェーン"},
        {"name": "Mu\u0308ller, Jane A."},
        {"name": "Jane Müller"},
        {"born": "1950.01.01"},
        {"sex": "f "},
    ],
    ids=str,
)
def test_another_spelling_or_padding_is_nothing_that_differs(same):
    assert who(**{**JANE, **same}).differing(who(**JANE)) == []
    assert who(**{**JANE, **same}).kin(who(**JANE)) is Kin.SAME


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"id": "4712"}, Kin.DIFFERENT),
        ({"id": "4712", "name": "", "born": "", "sex": ""}, Kin.DIFFERENT),
        ({"name": "Meyer^Jane"}, Kin.SAME),  # a marriage
        ({"name": "Meyer^Jane", "born": "19660606"}, Kin.DIFFERENT),
        ({"name": "Meyer^Jane", "sex": "M"}, Kin.DIFFERENT),
        ({"name": "Ortiz^Ana"}, Kin.SAME),  # the birth date says so
        ({"name": "Ortiz^Ana", "born": ""}, Kin.DIFFERENT),  # a number typed wrongly, or given to all
        ({"name": "Ortiz^Ana", "born": "19660606"}, Kin.DIFFERENT),
        ({"born": "19660606"}, Kin.SAME),  # a typing error
        ({"born": "19660606", "sex": "M"}, Kin.DIFFERENT),
        ({"name": "", "born": "", "sex": ""}, Kin.SAME),
        ({"name": "ANONYMOUS", "born": "19000101"}, Kin.SAME),
        ({"id": ""}, Kin.SAME),
        ({"id": "ANON", "born": ""}, Kin.UNSURE),
        ({"id": "", "name": ""}, Kin.UNSURE),
        ({"id": "", "name": "Müller^Anna"}, Kin.DIFFERENT),  # sisters, born on one day
        ({"id": "", "born": "19660606"}, Kin.DIFFERENT),
        ({"id": "", "name": "", "born": "", "sex": ""}, Kin.UNSURE),
        ({"id": "", "name": "", "born": "", "sex": "M"}, Kin.DIFFERENT),
    ],
    ids=str,
)
def test_every_combination_of_what_differs_and_what_is_empty(changed, verdict):
    one, other = who(**JANE), who(**{**JANE, **changed})
    assert one.kin(other) is verdict
    assert other.kin(one) is verdict


def test_a_number_counts_within_its_issuer():
    """Two hospitals may give one number to two people, and two numbers to one."""
    ours = {**JANE, "issuer": "CITY"}
    assert who(**ours).kin(who(**{**JANE, "issuer": "LAKE", "name": "Ortiz^Ana"})) is Kin.DIFFERENT
    assert who(**ours).kin(who(**{**JANE, "issuer": "LAKE", "id": "99"})) is Kin.SAME
    assert who(**ours).kin(who(**{**JANE, "issuer": "LAKE", "id": "99", "born": ""})) is Kin.UNSURE
    assert who(**ours).kin(who(**{**JANE, "id": "99"})) is Kin.DIFFERENT, "of one issuer, as far as is said"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"name": "Doe^Jane"}, {"id": "0815", "born": "19660606"}),
        ({"name": "Doe^Jane", "sex": "F"}, {"id": "0815", "sex": "F"}),
        ({"id": "1", "issuer": "CITY"}, {"id": "2", "issuer": "LAKE"}),
    ],
    ids=str,
)
def test_who_shares_nothing_with_another_is_not_taken_for_him(one, other):
    one, other = who(**one), who(**other)
    assert one.kin(other) is other.kin(one) is Kin.APART
    assert one.kin_to_each([other, Patient()]) == {Kin.DIFFERENT}, "silence makes no bridge"


def test_who_has_a_name_only_is_known_by_a_header_with_name_and_number():
    by_name, by_number, both = who(name="Doe^Jane"), who(id="4711"), who(id="4711", name="Doe^Jane")
    assert by_name.kin_to_each([both, by_number]) == {Kin.UNSURE}


def test_nothing_of_the_patient_is_kept():
    said = repr(who(**JANE)).casefold()
    assert not [value for value in ("4711", "ller", "jane", "1950") if value in said.replace("patient(", "")]


def test_what_a_damaged_header_raises_says_nothing():
    def get(keyword):
        raise NotImplementedError(keyword)

    assert patient_of(get) == Patient()


def test_of_one_person_all_is_known_that_any_header_says():
    one = merged([who(id="4711", name="Müller"), who(name="Müller^Jane", born="19500101"), Patient()])
    assert one == who(id="4711", name="Müller^Jane", born="19500101")


texts = (
    st.sampled_from(["", " ", "1", "01", "2", "ANON", "Doe^Jane", "DOE^JANE", "Doe", "19500101", "F", "M"]) | st.text()
)
headers = st.fixed_dictionaries(dict.fromkeys(PATIENT_TAGS, texts))


@given(headers, headers)
def test_the_verdict_is_the_same_from_both_sides_and_nobody_differs_from_himself(one, other):
    a, b = patient_of(one.get), patient_of(other.get)
    assert a.kin(b) is b.kin(a)
    assert a.kin(a) is not Kin.DIFFERENT
    assert Patient().kin(a) is Kin.UNSURE
    assert merged([a, b]) == merged([b, a])
