"""Names of results come from UIDs, and UIDs from strangers: whatever they hold, the folders are safe and apart."""

from hypothesis import example, given
from hypothesis import strategies as st

from covct.intake.discover import safe_name

# Text that looks like a UID more or less, any text, and what decoders of broken files give (lone surrogates).
ANY = st.one_of(
    st.from_regex(r"[0-9.]{0,70}", fullmatch=True),
    st.text(max_size=80),
    st.text(st.characters(codec=None), max_size=20),
    st.text("./\\:*~%\0 \nAaCOcoNn1é", max_size=12),
)
UID = st.from_regex(r"[12]\.(0|[1-9][0-9]{0,9})(\.(0|[1-9][0-9]{0,9})){0,3}", fullmatch=True)


@given(ANY)
@example("..")
@example(".covct")
@example("runs")
def test_a_name_is_one_plain_component_on_every_file_system(uid):
    """ASCII letters, digits, dots and dashes; visible; no dot at an end, which SMB drops; none of covct's own names."""
    name = safe_name(uid)
    assert 0 < len(name) <= 64
    assert set(name) <= set("0123456789abcdef.uid-")
    assert name[0] != "." and name[-1] != "."
    assert ".." not in name
    assert name not in ("runs", "summary.csv", "index.html")


@given(ANY, ANY)
def test_what_differs_lies_apart(one, other):
    """In one folder two studies would take turns in superseding each other."""
    assert (safe_name(one) == safe_name(other)) == (one == other)


@given(UID)
def test_a_uid_is_its_own_name(uid):
    """Found by hand in the morning."""
    assert safe_name(uid) == uid
