"""TLS of associations: what is wrong with a certificate is said at the start, in a sentence."""

import socket
import ssl
import threading

import pytest

from covct.errors import UsageError
from covct.exchange.tls import client_context, server_context, why_not_trusted
from support.certificates import make_authority


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("tls") / "theirs")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """The versions that both sides speak in the end, or why they do not."""
    ends, said = socket.socketpair(), {}

    def meet(name, context, end, **role):
        try:
            with context.wrap_socket(end, **role) as secured:
                secured.sendall(b"x")  # TLS 1.3 tells of a refused client only after its handshake
                secured.recv(1)
                said[name] = secured.version()
        except ssl.SSLError as error:
            said[name] = why_not_trusted(error)
            end.close()
        except OSError:
            said[name] = "broken off"

    answering = threading.Thread(target=meet, args=("server", server, ends[0]), kwargs={"server_side": True})
    answering.start()
    meet("client", client, ends[1], server_hostname="127.0.0.1")
    answering.join(10)
    return said["server"], said["client"]


def test_both_sides_show_a_certificate(ours):
    server = server_context(*ours.signs("server"), authorities=ours.certificate)
    client = client_context(ours.certificate, *ours.signs("client"))
    assert handshake(server, client) == ("TLSv1.3", "TLSv1.3")


def test_a_caller_without_certificate_is_refused(ours):
    server = server_context(*ours.signs("server"), authorities=ours.certificate)
    assert handshake(server, client_context(ours.certificate))[0] == "TLS failed: peer did not return a certificate"


def test_a_caller_with_anothers_certificate_is_refused(ours, theirs):
    server = server_context(*ours.signs("server"), authorities=ours.certificate)
    said, _ = handshake(server, client_context(ours.certificate, *theirs.signs("client")))
    assert said.startswith("the peer's certificate is refused: ")


def test_a_listener_with_anothers_certificate_is_refused(ours, theirs):
    _, said = handshake(server_context(*theirs.signs("server")), client_context(ours.certificate))
    assert said.startswith("the peer's certificate is refused: ")


def test_a_listener_with_the_certificate_of_another_host_is_refused(ours):
    _, said = handshake(server_context(*ours.signs("other", host="127.0.0.2")), client_context(ours.certificate))
    assert "IP address mismatch" in said


def test_tls_1_1_is_not_spoken(ours):
    old = client_context(ours.certificate)
    with pytest.warns(DeprecationWarning):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    said, _ = handshake(server_context(*ours.signs("server")), old)
    assert said.startswith("TLS failed: ")


def test_what_cannot_work_is_said_at_the_start(ours, tmp_path):
    certificate, key = ours.signs("server")
    _, another = ours.signs("another")
    no_certificate = tmp_path / "notes.txt"
    no_certificate.write_text("the certificate is with the IT department\n")
    for paths, said in (
        ((certificate, tmp_path / "none.key"), r"none\.key: cannot be read: No such file"),
        ((certificate, another), "the key does not belong to this certificate"),
        ((no_certificate, key), r"notes\.txt: no PEM certificate with its key"),
        (ours.signs("old", days="-1"), r"old\.pem: the certificate has expired; wanted"),
    ):
        with pytest.raises(UsageError, match=said):
            server_context(*paths)
    with pytest.raises(UsageError, match=r"notes\.txt: no PEM certificates of authorities"):
        server_context(certificate, key, authorities=no_certificate)
    with pytest.raises(UsageError, match="wanted a certificate and its key, got one of them"):
        client_context(ours.certificate, certificate)


def test_a_key_that_asks_for_a_passphrase_is_refused_not_asked_for(ours):
    certificate, key = ours.signs("server")
    locked = ours.encrypted(key)
    with pytest.raises(UsageError, match="the key is encrypted; wanted one without a passphrase"):
        server_context(certificate, locked)
