"""What a TLS handshake with a broker shows: whether its certificate verifies, and how long it is valid."""

from __future__ import annotations

import calendar
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

from servicebus.configuration import BrokerHost
from servicebus.errors import ConfigurationError
from servicebus.operations.doctor.facts import CertificateFacts

__all__ = ["certificate_of", "validity"]

_CONTEXT_0 = 0xA0
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x17, 0x18
_CENTURY = 50
"""Two digits of a year below this are of the 21st (RFC 5280, 4.1.2.5.1)."""


def certificate_of(host: BrokerHost, timeout_s: float) -> CertificateFacts:
    """Shake hands once as the bus does, and if that fails once more without verifying, for the dates."""
    found = CertificateFacts()
    try:
        context = host.ssl_context()
    except ConfigurationError as error:
        found.file_problem = str(error).removeprefix(f"host {host.name}: ")
        return found
    assert context is not None, "it is a host with TLS"
    if host.tls.certificate is not None:
        with suppress(OSError, ValueError):
            found.own_begins, found.own_ends = validity(_first_of(host.tls.certificate))
    try:
        der = _handshake(host, context, timeout_s)
    except ssl.SSLCertVerificationError as error:
        found.problem_code, found.problem = error.verify_code, error.verify_message
        context.check_hostname = False  # only its dates are read: nothing of ours is sent, no password either
        context.verify_mode = ssl.CERT_NONE
        der = b""
        with suppress(OSError):
            der = _handshake(host, context, timeout_s)
    except OSError:
        return found  # the connection that follows says why
    with suppress(ValueError):
        found.begins, found.ends = validity(der)
    return found


def _handshake(host: BrokerHost, context: ssl.SSLContext, timeout_s: float) -> bytes:
    with (
        socket.create_connection((host.host, host.port), timeout_s) as sock,
        context.wrap_socket(sock, server_hostname=host.server_name) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def _first_of(path: str) -> bytes:
    text = Path(path).read_text(encoding="utf-8")
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[text.index(begin) : text.index(end) + len(end)] + "\n")


def validity(der: bytes) -> tuple[float, float]:
    """From when and until when an X.509 certificate is valid, as Unix seconds. Raises ValueError: it is none.

    The ssl module gives the dates of a certificate only after it was verified; here the others matter.
    """
    try:
        _, certificate, _ = _element(der)
        _, rest, _ = _element(certificate)  # what is signed
        if rest[0] == _CONTEXT_0:  # its version
            _, _, rest = _element(rest)
        for _ in ("serial number", "algorithm", "issuer"):
            _, _, rest = _element(rest)
        tag, dates, _ = _element(rest)
        if tag != _SEQUENCE:
            raise ValueError("no validity where it should be")
        first, begins, rest = _element(dates)
        second, ends, _ = _element(rest)
        return _seconds(first, begins), _seconds(second, ends)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("no certificate") from error


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first DER element, and what follows it."""
    tag, length, at = data[0], data[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if len(data) < at + length:
        raise ValueError("it ends too early")
    return tag, data[at : at + length], data[at + length :]


def _seconds(tag: int, text: bytes) -> float:
    digits = text.decode("ascii").removesuffix("Z")
    if tag == _UTC_TIME:
        digits = ("20" if int(digits[:2]) < _CENTURY else "19") + digits
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time where it should be")
    return float(calendar.timegm(time.strptime(digits, "%Y%m%d%H%M%S")))
