"""XML of one root and flat children, as version 1 writes it: the hardened reader, and what text may be written.

The real peers look fields up by name, take the first of each, and join text and CDATA; so does this. What is not
needed for that is refused: DTDs and thereby entities, markup inside a field, other encodings than UTF-8, size.

It is no use of libxml2, which keeps each element's name that it has ever seen: a stranger chooses those. Everything
takes linear time. And 2.19 pastes payloads into one CDATA section: one that holds ``]]>`` is no XML any more, and still
has to arrive. Such a document is read once more with the payload from the first mark to the last.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from servicebus.errors import EnvelopeError
from servicebus.wire.fault import NOT_XML

__all__ = ["FlatDocument", "in_cdata", "not_xml", "parse_flat"]

# Nothing may stand before the root but a declaration: the agents of 2.x drop everything else, and a DTD can be nowhere
# but there.
_PROLOG = re.compile(r"\ufeff?(?:<\?xml[ \t\r\n][^<>]{0,200}\?>)?[ \t\r\n]*(?=<(?![!?]))")
# Bounded, so that what is wrong is known soon: the real peers write five elements, and one attribute.
_NAME = r"[^ \t\n<>/=&\"'!?][^ \t\n<>/=&\"']{0,99}"
_MAX_ELEMENTS = 1000
_ATTRIBUTE = rf"""[ \t\n]{{1,100}}({_NAME})[ \t\n]{{0,100}}=[ \t\n]{{0,100}}("[^"<]{{0,1000}}"|'[^'<]{{0,1000}}')"""
_TAG = re.compile(
    rf"<(?P<close>/?)(?P<name>{_NAME})(?P<attributes>(?:{_ATTRIBUTE}){{0,20}})[ \t\n]{{0,100}}(?P<empty>/?)>"
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_REFERENCE = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#([0-9]{1,7})|#x([0-9a-fA-F]{1,6}));|&")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_MAX_DEPTH = 256
_MAX_REFERENCES = 10_000
_SHOWN_BYTES = 1000


@dataclass(frozen=True, slots=True)
class FlatDocument:
    root: str
    attributes: dict[str, str]
    fields: dict[str, str]
    """Text by name, for those of the wanted names that are there."""


def parse_flat(body: bytes, wanted: Collection[str], max_bytes: int, payload: str = "") -> FlatDocument:
    """Read the *wanted* fields of a document; *payload* is the one that 2.19 pastes in as it is, the last of them.

    Raises:
        EnvelopeError: ``oversized``, ``dtd``, ``too-deep`` or ``malformed``. Nothing else.
    """
    if len(body) > max_bytes:
        raise EnvelopeError("oversized", f"{len(body)} bytes, allowed are {max_bytes}")
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", body[:_SHOWN_BYTES].partition(_CDATA.encode())[0]):
        raise EnvelopeError("dtd", "a document type declaration is not allowed")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    prolog = _PROLOG.match(text)
    if prolog is None:
        raise _malformed("it does not begin with an XML element")
    if culprit := not_xml(text):
        raise _malformed(f"it holds {culprit}")
    text = text[prolog.end() :].replace("\r\n", "\n").replace("\r", "\n")
    try:
        return _Reader(text, wanted).read()
    except EnvelopeError:
        pasted = _pasted(text, payload)
        if pasted is None:
            raise
        document = _Reader(pasted[0], wanted).read()
        document.fields[payload] = pasted[1]
        return document


def _pasted(text: str, name: str) -> tuple[str, str] | None:
    """The document without its payload, and the payload; None if it has none that holds the end of CDATA."""
    start = text.find(f"<{name}>{_CDATA}") if name else -1
    end = text.rfind(f"{_CDATA_END}</{name}>")
    begin = start + len(name) + 2 + len(_CDATA)
    if start < 0 or end < begin or _CDATA_END not in text[begin:end]:
        return None
    return f"{text[: start + len(name) + 2]}{text[end + len(_CDATA_END) :]}", text[begin:end]


class _Reader:
    """One pass over one document."""

    def __init__(self, text: str, wanted: Collection[str]):
        self._text = text
        self._wanted = wanted
        self._at = 0

    def read(self) -> FlatDocument:
        root = self._tag()
        if root["close"]:
            raise _malformed("it begins with the end of an element")
        attributes = {name: _unescaped(value[1:-1]) for name, value in _ATTRIBUTES.findall(root["attributes"])}
        fields: dict[str, str] = {}
        path = [] if root["empty"] else [root["name"]]
        for _ in range(_MAX_ELEMENTS):
            if not path:
                break
            self._content(path[-1])
            tag = self._tag()
            name = tag["name"]
            if tag["close"]:
                if name != path.pop():
                    raise _malformed("an element ends that has not begun")
            elif len(path) == 1 and name in self._wanted and name not in fields:
                fields[name] = "" if tag["empty"] else self._field(name)
            elif not tag["empty"]:
                path.append(name)
                if len(path) > _MAX_DEPTH:
                    raise EnvelopeError("too-deep", f"more than {_MAX_DEPTH} levels")
        if path or self._text[self._at :].strip(" \t\n"):
            raise _malformed("something follows the root, or it has too many elements")
        return FlatDocument(root["name"], attributes, fields)

    def _field(self, name: str) -> str:
        text = self._content(name)
        tag = self._tag()
        if not tag["close"] or tag["name"] != name:
            raise _malformed(f"<{name}> holds markup")
        return text

    def _content(self, name: str) -> str:
        """Text and CDATA up to the next tag, joined."""
        pieces: list[str] = []
        while True:
            mark = self._text.find("<", self._at)
            if mark < 0:
                raise _malformed("it is cut short")
            plain = self._text[self._at : mark]
            if _CDATA_END in plain:
                raise _malformed("the end of a CDATA section stands in a text")
            pieces.append(_unescaped(plain))
            self._at = mark
            if not self._text.startswith(_CDATA, mark):
                return "".join(pieces)
            end = self._text.find(_CDATA_END, mark)
            if end < 0:
                raise _malformed("it is cut short")
            pieces.append(self._text[mark + len(_CDATA) : end])
            self._at = end + len(_CDATA_END)

    def _tag(self) -> re.Match[str]:
        tag = _TAG.match(self._text, self._at)
        if tag is None or (tag["close"] and (tag["empty"] or tag["attributes"])):
            raise _malformed("a comment, an instruction, or a tag that is none")
        self._at = tag.end()
        return tag


def _unescaped(text: str) -> str:
    references = text.count("&")
    if references > _MAX_REFERENCES:
        raise _malformed(f"a text with more than {_MAX_REFERENCES} references, where CDATA belongs")
    return _REFERENCE.sub(_referred, text) if references else text


def _referred(found: re.Match[str]) -> str:
    name, decimal, hexadecimal = found.groups()
    if name:
        return _ENTITIES[name]
    if decimal or hexadecimal:
        number = int(decimal) if decimal else int(hexadecimal, 16)
        char = chr(number) if number <= 0x10FFFF else "\0"
        if not not_xml(char):
            return char
    raise _malformed("it refers to an entity, or to a character that XML cannot carry")


def _malformed(detail: str) -> EnvelopeError:
    return EnvelopeError("malformed", detail)


def not_xml(text: str) -> str:
    """The first character of *text* that XML cannot carry, as ``U+0000``; empty if there is none."""
    found = NOT_XML.search(text)
    return f"U+{ord(found.group()):04X}" if found else ""


def in_cdata(text: str) -> str:
    """*text* as one CDATA section, or as several around ``]]>``, which the real peers join again."""
    return f"<![CDATA[{text.replace(']]>', ']]]]><![CDATA[>')}]]>"
