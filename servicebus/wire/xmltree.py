"""The one place where lxml parses envelopes: those few that are not plain, by one hardened parser per thread.

Imported when the first of them is to be read: most processes never see one, and lxml takes 4 MB in each.
"""

from __future__ import annotations

import threading
from typing import Any

from lxml import etree

from servicebus.errors import EnvelopeError
from servicebus.wire.printable import printable

__all__ = ["hardened_parser", "parsed"]


def hardened_parser(encoding: str | None = None) -> etree.XMLParser:
    """One for documents of strangers, for one thread; *encoding* counts more than what a document says of itself."""
    # libxml2's own limits stay on (huge_tree): 256 levels, 10 MB of text. Shapes with payload have two levels and no
    # payload here; a fault is bounded by its sender.
    return etree.XMLParser(
        encoding=encoding,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        collect_ids=False,
    )


class _Parsers(threading.local):
    """One parser per thread: those who share one wait for each other."""

    def __init__(self) -> None:
        self.parser = hardened_parser()


_parsers = _Parsers()


def parsed(document: bytes) -> Any:  # an element; its stubs know nothing of what the shape has settled
    """The root. Raises EnvelopeError, ``malformed``."""
    try:
        return etree.fromstring(document, _parsers.parser)
    except etree.XMLSyntaxError as error:
        raise EnvelopeError("malformed", printable(str(error.msg)[:200])) from None
