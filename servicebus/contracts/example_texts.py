"""Example texts: what fits a length, a format and patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from servicebus.contracts.shapes import Strings

__all__ = ["texts_for"]

_BY_FORMAT = {
    "date-time": "2026-01-31T12:30:00Z",
    "date": "2026-01-31",
    "time": "12:30:00Z",
    "duration": "PT1H30M",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "uuid1": "a8098c1a-f86e-11da-bd1a-00112444be1e",
    "uuid3": "6fa459ea-ee8a-3ca4-894e-db77e160355e",
    "uuid4": "123e4567-e89b-42d3-a456-426614174000",
    "uuid5": "886313e1-3b8a-5372-9b90-0c9aee199e5d",
    "uuid6": "1f0a4c1e-9d3a-6b7e-8c5d-0242ac120002",
    "uuid7": "019b2c5e-7a10-7c3b-9f4e-1a2b3c4d5e6f",
    "uuid8": "123e4567-e89b-82d3-a456-426614174000",
    "decimal": "1.50",
    "binary": "bytes",
    "base64": "Ynl0ZXM=",
    "base64url": "Ynl0ZXM=",
    "email": "name@example.org",
    "name-email": "Name <name@example.org>",
    "idn-email": "name@example.org",
    "hostname": "node.example.org",
    "idn-hostname": "node.example.org",
    "uri": "https://example.org/path",
    "iri": "https://example.org/path",
    "uri-reference": "/path",
    "iri-reference": "/path",
    "multi-host-uri": "https://example.org/path",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
    "ipv4network": "192.0.2.0/24",
    "ipv6network": "2001:db8::/32",
    "ipvanynetwork": "192.0.2.0/24",
    "ipv4interface": "192.0.2.1/24",
    "ipv6interface": "2001:db8::1/32",
    "ipvanyinterface": "192.0.2.1/24",
    "json-pointer": "/field/0",
    "regex": "^[a-z]+$",
    "path": "folder/file.txt",
    "file-path": "folder/file.txt",
    "directory-path": "folder",
    "password": "password",
    "json-string": "{}",
    "color": "#336699",
}
_WORDS = (
    "string",
    "text",
    "a",
    "A",
    "AB",
    "ABC",
    "ABC-123",
    "1",
    "12",
    "123",
    "12345",
    "1.0",
    "a1",
    "a-1",
    "A1",
    "/path",
    "",
)
_LONGEST = 10_000


def texts_for(shape: Strings) -> Iterator[str]:
    """Different texts that fit, the most telling first; none if none was found."""
    for name in shape.formats:
        if name in _BY_FORMAT:
            yield _BY_FORMAT[name]
            return
    for text in _tried(shape):
        if shape.shortest <= len(text) <= shape.longest and all(re.search(each, text) for each in shape.patterns):
            yield text


def _tried(shape: Strings) -> Iterator[str]:
    yield from _WORDS
    length = int(min(max(shape.shortest, 1), shape.longest, _LONGEST))
    for word in ("string", "a", "A", "0"):
        yield (word * length)[:length]
    for number in range(2, 100):
        text = f"string{number}"
        yield text[-int(min(shape.longest, len(text))) :].rjust(length, "a")
