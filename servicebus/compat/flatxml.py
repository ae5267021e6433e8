"""XML of one root and flat children, as version 1 writes it: the hardened parser, and what text may be written.

The real peers look fields up by name, take the first of each, and join text and CDATA; so does this. What is not
needed for that is refused: DTDs and thereby entities, markup inside a field, other encodings than UTF-8, size.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from lxml import etree

from servicebus.errors import EnvelopeError
from servicebus.wire.xmltree import hardened_parser

__all__ = ["FlatDocument", "in_cdata", "not_xml", "parse_flat"]

# Nothing may stand before the root but a declaration: the agents of 2.x drop everything else, and a DTD can be nowhere
# but there.
_PROLOG = re.compile(rb"(?:\xef\xbb\xbf)?(?:<\?xml[ \t\r\n][^<>]{0,200}\?>)?[ \t\r\n]*<(?![!?])")
_SHOWN_BYTES = 1000
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class FlatDocument:
    root: str
    attributes: dict[str, str]
    fields: dict[str, str]
    """Text by name, for those of the wanted names that are there."""


class _Parsers(threading.local):
    def __init__(self) -> None:
        self.parser = hardened_parser("utf-8")  # whatever the declaration says


_parsers = _Parsers()


def parse_flat(body: bytes, wanted: Collection[str], max_bytes: int) -> FlatDocument:
    """Read the *wanted* fields of a document.

    Raises:
        EnvelopeError: ``oversized``, ``dtd``, ``too-deep`` or ``malformed``. Nothing else.
    """
    if len(body) > max_bytes:
        raise EnvelopeError("oversized", f"{len(body)} bytes, allowed are {max_bytes}")
    if _PROLOG.match(body) is None:
        raise _why_no_root(body)
    root = _parsed(body)
    fields: dict[str, str] = {}
    for child in root:
        name = child.tag
        if name not in wanted or name in fields:
            continue
        if len(child):
            raise EnvelopeError("malformed", f"<{name}> holds markup")
        fields[name] = child.text or ""
    return FlatDocument(str(root.tag), {str(key): str(value) for key, value in root.attrib.items()}, fields)


def _parsed(body: bytes) -> Any:
    try:
        return etree.fromstring(body, _parsers.parser)
    except etree.XMLSyntaxError as error:
        reason = "too-deep" if "depth" in str(error.msg) else "malformed"
        raise EnvelopeError(reason, str(error.msg)[:200]) from None


def _why_no_root(body: bytes) -> EnvelopeError:
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", body[:_SHOWN_BYTES]):
        return EnvelopeError("dtd", "a document type declaration is not allowed")
    return EnvelopeError("malformed", "it does not begin with an XML element")


def not_xml(text: str) -> str:
    """The first character of *text* that XML cannot carry, as ``U+0000``; empty if there is none."""
    found = _NOT_XML.search(text)
    return f"U+{ord(found.group()):04X}" if found else ""


def in_cdata(text: str) -> str:
    """*text* as one CDATA section, or as several around ``]]>``, which the real peers join again."""
    return f"<![CDATA[{text.replace(']]>', ']]]]><![CDATA[>')}]]>"
