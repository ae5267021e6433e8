"""The dates of certificates, read without verifying them, and what a TLS handshake that fails says."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from servicebus.configuration import BrokerHost, TlsSettings
from servicebus.operations.doctor.certificates import certificate_of, validity

UTC = datetime.timezone.utc
BEGIN = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
LATE = datetime.datetime(2051, 6, 7, 8, 9, 10, tzinfo=UTC)
"""From 2050 on a date has another form in certificates."""


@contextmanager
def listening(certificate: trustme.LeafCert) -> Iterator[int]:
    """A port that shakes hands with that certificate, again and again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(sock, server_side=True) as tls:
                        tls.recv(1)
                except OSError:
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize("end", [datetime.datetime(2030, 1, 1, tzinfo=UTC), LATE])
def test_the_dates_are_those_that_were_given(end: datetime.datetime) -> None:
    leaf = trustme.CA().issue_cert("localhost", not_before=BEGIN, not_after=end)
    der = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
    assert validity(der) == (BEGIN.timestamp(), end.timestamp())


@pytest.mark.parametrize("junk", [b"", b"\x30", b"\x30\x82\xff\xff", b"\x30\x03\x30\x01\x00", b"no certificate"])
def test_what_is_no_certificate_is_refused(junk: bytes) -> None:
    with pytest.raises(ValueError):
        validity(junk)


def test_what_fails_is_told_by_its_code_and_dates(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    ca, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    ca.write_bytes(authority.cert_pem.bytes())
    other.write_bytes(stranger.cert_pem.bytes())
    past = datetime.datetime.now(UTC) - datetime.timedelta(days=3)
    good = authority.issue_cert("localhost")
    expired = authority.issue_cert("localhost", not_before=BEGIN, not_after=past)

    def look(port: int, **tls: Any) -> tuple[int, float | None]:
        found = certificate_of(BrokerHost("mq", "localhost", port, use_ssl=True, tls=TlsSettings(**tls)), 10.0)
        assert found.file_problem == ""
        return found.problem_code, found.ends

    with listening(good) as port:
        code, ends = look(port, ca=str(ca))
        assert code == 0 and ends is not None
        assert look(port, ca=str(other)) == (20, ends) or look(port, ca=str(other)) == (19, ends)
        assert look(port, ca=str(ca), server_name="mq-a") == (62, ends)
    with listening(expired) as port:
        assert look(port, ca=str(ca)) == (10, float(int(past.timestamp())))


def test_files_that_cannot_be_used_and_our_own_certificate_are_told(tmp_path: Path) -> None:
    leaf = trustme.CA().issue_cert("client@localhost", not_before=BEGIN, not_after=LATE)
    pem, key = tmp_path / "own.pem", tmp_path / "own.key"
    pem.write_bytes(leaf.cert_chain_pems[0].bytes())
    key.write_bytes(leaf.private_key_pem.bytes())
    own = TlsSettings(certificate=str(pem), key=str(key))
    found = certificate_of(BrokerHost("mq", "127.0.0.1", 1, use_ssl=True, tls=own), 1.0)
    assert (found.own_begins, found.own_ends, found.ends) == (BEGIN.timestamp(), LATE.timestamp(), None)
    gone = TlsSettings(ca=str(tmp_path / "none.pem"))
    assert "none.pem" in certificate_of(BrokerHost("mq", "127.0.0.1", 1, use_ssl=True, tls=gone), 1.0).file_problem
