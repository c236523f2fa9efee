"""Who is called and who may call, as it is written on a command line."""

import pytest

from covct.errors import UsageError
from covct.exchange.peers import Caller, Peer, caller_of, may_call, peer_of


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("PACS@archive.hospital.org:104", Peer("PACS", "archive.hospital.org", 104)),
        ("dicom://PACS@10.0.0.7:11112", Peer("PACS", "10.0.0.7", 11112)),
        ("dicoms://PACS@10.0.0.7:2762", Peer("PACS", "10.0.0.7", 2762, is_secured=True)),
        ("PACS@[::1]:104", Peer("PACS", "::1", 104)),
        ("MY PACS@archive:104", Peer("MY PACS", "archive", 104)),
        ("A@B@archive:104", Peer("A@B", "archive", 104)),
    ],
)
def test_a_peer_as_it_is_written(text, peer):
    assert peer_of(text) == peer
    assert peer_of(str(peer)) == peer


@pytest.mark.parametrize(
    "text",
    ["", "PACS", "PACS@archive", "PACS@archive:", "PACS@:104", "PACS@archive:0", "PACS@archive:65536",
     "@archive:104", "    @archive:104", "SEVENTEEN_LETTERS@archive:104", "P\\ACS@archive:104", "PÄCS@archive:104",
     "PACS@::1:104", "PACS@arch ive:104", "PACS@a/../b:104", "http://PACS@archive:104", "PACS@archive:1o4"],
)  # fmt: skip
def test_what_is_no_peer_is_named(text):
    with pytest.raises(UsageError, match=r"--to .*wanted"):
        peer_of(text)


@pytest.mark.parametrize(
    ("allowed", "title", "address", "may"),
    [
        ("CT1@10.1.2.3", "CT1", "10.1.2.3", True),
        ("CT1@10.1.2.3", "CT1", "10.1.2.4", False),
        ("CT1@10.1.2.3", "CT2", "10.1.2.3", False),
        ("CT1@10.1.0.0/16", "CT1", "10.1.9.9", True),
        ("CT1@10.1.0.0/16", "CT1", "::ffff:10.1.9.9", True),
        ("CT1", "CT1", "192.0.2.1", True),
        ("*@::1", "ANYBODY", "::1", True),
        ("*@fe80::/10", "CT1", "fe80::1%eth0", True),
        ("*@10.0.0.0/8", "CT1", "::1", False),
        ("CT1", "ct1", "10.1.2.3", False),
    ],
)
def test_who_may_call(allowed, title, address, may):
    assert may_call([Caller("OTHER", None), caller_of(allowed)], title, address) is may


def test_nobody_may_call_where_nobody_is_named():
    assert not may_call([], "CT1", "127.0.0.1")


@pytest.mark.parametrize("text", ["", "@10.1.2.3", "CT1@", "CT1@ct1.hospital.org", "CT1@10.1.2.3/16", "C\\T1"])
def test_what_is_no_caller_is_named(text):
    with pytest.raises(UsageError, match=r"--allow .*wanted"):
        caller_of(text)
