"""Where results go: addresses, tables of covct.toml, and rules that say which results."""

import re

import pytest

from covct.errors import UsageError
from covct.exchange.destinations import Fault, named, of_texts
from covct.exchange.rules import all_hold, parse_rule
from covct.results.entries import Entry
from support.running import invoke

NODE = "PACS@10.0.0.5:104"


def test_an_address_is_a_destination_of_that_name():
    node, web = of_texts([NODE, "https://pacs.example/dicom-web/", NODE], {})
    assert (node.name, node.peer.title, node.peer.port) == (NODE, "PACS", 104)
    assert (web.name, web.peer) == ("https://pacs.example/dicom-web", None)
    assert re.fullmatch(r"PACS-10-0-0-5-104\.[0-9a-f]{8}", node.folder)


def test_a_table_names_one_and_says_what_it_gets():
    table = {"address": NODE, "formats": ["sr", "seg"], "when": "infection_percent >= 5", "rejects": True}
    [one] = of_texts(["pacs"], {"pacs": table})
    assert (one.name, one.folder, one.formats, one.rejects) == ("pacs", "pacs", ("seg", "sr"), True)
    assert [str(rule) for rule in one.rules] == ["infection_percent >= 5"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pasc", "did you mean pacs?"),
        ("pacs.example", "wanted TITLE@HOST:PORT"),
        ("PACS@host", "wanted TITLE@HOST:PORT"),
        ("https://user:secret@host/x", "credentials stand in no address"),
        ("https://host/x?token=secret", "of a DICOMweb service"),
    ],
)
def test_what_is_no_destination_is_said(text, why):
    with pytest.raises(UsageError, match=re.escape(why)):
        of_texts([text], {"pacs": {"address": NODE}})


@pytest.mark.parametrize(
    ("table", "key", "why"),
    [
        ({}, "address", "is missing"),
        ({"adress": NODE}, "adress", "did you mean address?"),
        ({"address": NODE, "formats": ["segg"]}, "formats", "did you mean seg?"),
        ({"address": NODE, "formats": ["png"]}, "formats", "no DICOM format"),
        ({"address": NODE, "when": "infection_percnt >= 5"}, "when", "did you mean infection_percent?"),
        ({"address": NODE, "when": "infection_percent about 5"}, "when", "wanted a field, a comparison and a value"),
        ({"address": NODE, "when": "infection_percent >= many"}, "when", "many is no number"),
        ({"address": NODE, "when": "outcome > done"}, "when", "has no order"),
        ({"address": NODE, "when": "outcome = finished"}, "when", "one of done, failed, rejected"),
        ({"address": NODE, "auth_file": "x"}, "auth_file", "asks for no password"),
        ({"address": "https://h/x", "auth-file": "x"}, "auth-file", "did you mean auth_file?"),
        ({"address": "https://h/x", "password": "x"}, "password", "not known"),
        ({"address": "http://h/x", "auth_file": "x"}, "address", "goes nowhere without TLS"),
        ({"address": "https://h/x", "auth_file": "x", "auth_variable": "Y"}, "auth_file", "got both"),
        ({"address": "https://h/x", "certificate": "x"}, "certificate", "its key"),
        ({"address": "https://h/x", "commit": True}, "commit", "STOW-RS has none"),
        ({"address": NODE, "commit_port": 70000}, "commit_port", "1 to 65535"),
        ({"address": NODE, "rejects": "yes"}, "rejects", "true or false"),
        ({"address": NODE, "ours": "A" * 17}, "ours", "1 to 16"),
    ],
)
def test_a_wrong_key_or_value_is_named(table, key, why):
    with pytest.raises(Fault, match=re.escape(why)) as told:
        named("pacs", table)
    assert told.value.key == key


def test_a_password_is_no_option_of_the_command_line():
    assert not re.search(r"--\w*(pass|token|user)", invoke("send", "--help").stdout)


def test_the_file_and_line_of_a_wrong_table_are_named_whatever_the_command(tmp_path):
    (tmp_path / "covct.toml").write_text(
        'strict = true\n\n[destinations.pacs]\naddress = "PACS@h:104"\nwhen = "x > 1"\n'
    )
    (tmp_path / "in").mkdir()
    result = invoke("scan", tmp_path / "in", "-o", tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    said = str(result.exception)
    assert "covct.toml, line 3: [destinations.pacs] when:" in said and "a result has no x" in said


def entry(**figures):
    return Entry("1/2", "done", figures={(name, "lungs"): value for name, value in figures.items()}, severity_class=2)


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("infection_percent >= 5", True),
        ("infection_percent>5", False),
        ("infection_percent == 5.0", True),
        ("infection_ml < 100", False),
        ("severity_class != 1", True),
        ("outcome = done", True),
        ("outcome = 'rejected'", False),
        ("low_confidence = true", False),
    ],
)
def test_what_a_rule_means(rule, holds):
    """A figure that is withheld (here infection_ml) is neither above nor below anything."""
    assert all_hold([parse_rule(rule)], entry(infection_percent=5.0, infection_ml=None)) is holds
