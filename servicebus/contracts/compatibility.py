"""Whether a reader takes whatever a writer may send: two JSON Schemas 2020-12, and what stands in the way.

Of params the caller is the writer and the node the reader; of results and errors it is the other way round. So one rule
serves both directions. It is that of JSON Schema, with one addition: an object that lists its fields and says nothing
of others (no ``additionalProperties``) has no others where it is written, and ignores others where it is read.
``format`` counts, as pydantic checks it. What cannot be decided (two patterns) is an obstacle that says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from servicebus.contracts.alternatives import Document, Incomparable, are_disjoint
from servicebus.contracts.notation import Notation
from servicebus.contracts.shapes import (
    Arrays,
    Bound,
    Numbers,
    Objects,
    Schema,
    Shape,
    Strings,
    Values,
    accepts,
    all_of,
    text_of,
)

__all__ = ["Obstacle", "obstacles"]

_SPECIAL_FORMATS = {
    "ipvanyaddress": {"ipv4", "ipv6"},
    "ipvanyinterface": {"ipv4", "ipv6", "ipv4interface", "ipv6interface", "ipvanyaddress"},
    "ipvanynetwork": {"ipv4network", "ipv6network"},
    "name-email": {"email"},
    "uri-reference": {"uri"},
    "uuid": {f"uuid{version}" for version in range(1, 9)},
}
"""What each format takes besides itself."""
_ANY_TEXT = {"binary", "password", "path"}
"""Formats that every string has."""

_PLAIN_NAME = re.compile(r"[\w-]+")
_MOST_WORDS = 100
_MOST_OBSTACLES = 500
"""Of two schemas: where definitions are used in definitions, each difference is found along every way to it."""


@dataclass(frozen=True)
class Obstacle:
    """One thing that the writer may send and the reader does not take, or only a note on a difference."""

    path: str
    keyword: str
    """That of JSON Schema; ``presence`` for a field that one side has and the other has not, or need not have."""
    writer: Any
    reader: Any
    certainty: Literal["certain", "unknown", "note"] = "certain"
    why: str = ""
    """Why it is not known."""

    def at(self, place: str) -> Obstacle:
        """The same, seen from further out."""
        return replace(self, path=place + self.path)


def obstacles(writer: Schema, reader: Schema) -> list[Obstacle]:
    """What keeps *reader* from taking all that *writer* may send; only notes, or nothing, if it takes everything."""
    try:
        if text_of(writer) == text_of(reader):
            return []
        found = _Comparison(Document(writer), Document(reader)).compare(writer, reader)
    except RecursionError:
        found = [Obstacle("", "type", "a schema", "another one", "unknown", "they are nested too deep")]
    return [replace(each, path=each.path.removeprefix(".")) for each in found]


class _Comparison:
    def __init__(self, writer: Document, reader: Document):
        self._writer = writer
        self._reader = reader
        self._known: dict[tuple[str, str], list[Obstacle]] = {}
        self._assumed: list[tuple[str, str]] = []
        """Pairs that fit, in the order in which that was found."""

    def compare(self, writer: Schema, reader: Schema) -> list[Obstacle]:
        """Schemas that refer to themselves fit unless something outside of that circle does not."""
        key = (text_of(writer), text_of(reader))
        if key not in self._known:
            before = len(self._assumed)
            self._known[key] = []
            found = [*self._compare(writer, reader), *_notes(writer, reader)]
            if _is_refused(found):
                self._forget_assumptions(before)
            else:
                self._assumed.append(key)
            known = {(each.path, each.keyword, text_of(each.writer)): each for each in found}
            self._known[key] = sorted(known.values(), key=lambda each: each.certainty == "note")[:_MOST_OBSTACLES]
        return self._known[key]

    def _forget_assumptions(self, before: int) -> None:
        """What was found to fit since then may have been so only because this pair was taken to fit."""
        while len(self._assumed) > before:
            del self._known[self._assumed.pop()]

    def _compare(self, writer: Schema, reader: Schema) -> list[Obstacle]:
        if reader is True or reader == {} or writer is False:
            return []
        try:
            mine, theirs = self._writer.alternatives(writer), self._reader.alternatives(reader)
        except Incomparable as problem:
            return [Obstacle("", "type", *self._words(writer, reader), "unknown", str(problem))]
        found: list[Obstacle] = []
        for shape in mine:
            same_type = [each for each in theirs if each.type == shape.type]
            refused = _values(shape, same_type) if isinstance(shape, Values) else self._nearest(shape, same_type, mine)
            found += (
                _doubted(each, f"{', '.join(shape.opaque.values())} is not compared") if shape.opaque else each
                for each in refused
            )
        types = [each for each in found if each.keyword == "type" and not each.path]
        if types:
            worst = min(types, key=lambda each: each.certainty)
            kept = [each for each in found if each.path or each.keyword not in ("type", "enum")]
            return [Obstacle("", "type", *self._words(writer, reader), worst.certainty, worst.why), *kept]
        return found

    def _words(self, writer: Schema, reader: Schema) -> tuple[str, str]:
        return _type_words(self._writer.root, writer), _type_words(self._reader.root, reader)

    def _nearest(self, shape: Shape, candidates: list[Shape], siblings: list[Shape]) -> list[Obstacle]:
        """Only notes if one of the candidates takes the shape; else why the one that is most like it does not."""
        is_union = len(siblings) > 1 or len(candidates) > 1
        place = f"<{shape.label}>" if is_union and shape.label else ""
        tried: list[tuple[Shape, list[Obstacle]]] = []
        for each in sorted(candidates, key=lambda each: each.label != shape.label):
            if len(candidates) > 1 and isinstance(each, Objects) and are_disjoint(shape, each):
                continue
            found = [obstacle.at(place) for obstacle in self._shapes(shape, each)]
            if not _is_refused(found):
                return found
            tried.append((each, found))
        namesakes = [(each, found) for each, found in tried if each.label and each.label == shape.label]
        if not tried or (place and not namesakes):
            return [Obstacle("", "type", shape.label or shape.type, "nothing")]
        _, found = min(namesakes or tried, key=lambda pair: len(pair[1]))
        if len(tried) > 1 and not namesakes:
            found = [_doubted(each, "several alternatives together may take it") for each in found]
        return found

    def _shapes(self, writer: Shape, reader: Shape) -> Iterator[Obstacle]:
        for text in reader.opaque.keys() - writer.opaque.keys():
            keyword = reader.opaque[text]
            yield Obstacle("", keyword, None, keyword, "unknown", f"{keyword} is not compared")
        if isinstance(reader, Values):
            yield Obstacle("", "enum", None, list(reader.values))
        elif isinstance(writer, Numbers) and isinstance(reader, Numbers):
            yield from _numbers(writer, reader)
        elif isinstance(writer, Strings) and isinstance(reader, Strings):
            yield from _strings(writer, reader)
        elif isinstance(writer, Arrays) and isinstance(reader, Arrays):
            yield from self._arrays(writer, reader)
        elif isinstance(writer, Objects) and isinstance(reader, Objects):
            yield from self._objects(writer, reader)

    def _arrays(self, writer: Arrays, reader: Arrays) -> Iterator[Obstacle]:
        yield from _lengths(writer, reader, "Items")
        if reader.is_unique and not writer.is_unique and writer.longest > 1:
            yield Obstacle("", "uniqueItems", False, True)
        count = max(len(writer.prefix), len(reader.prefix))
        written = min(writer.longest, reader.longest)
        for index in range(int(min(count, written))):
            yield from self._at(f"[{index}]", writer.item(index), reader.item(index))
        if written > count:
            yield from self._at("[]", writer.rest, reader.rest)

    def _objects(self, writer: Objects, reader: Objects) -> Iterator[Obstacle]:
        yield from self._fields(writer, reader)
        is_closed = writer.rest is False or (writer.rest is None and writer.declares)
        least = max(writer.smallest, len(writer.required))
        most = min(writer.largest, len(writer.fields) if is_closed and not writer.patterns else writer.largest)
        if least < reader.smallest:
            yield Obstacle("", "minProperties", least, reader.smallest)
        if most > reader.largest:
            yield Obstacle("", "maxProperties", _shown(most), reader.largest)
        for pattern in reader.patterns.keys() - writer.patterns.keys():
            if not is_closed or writer.patterns:
                yield Obstacle("", "patternProperties", None, pattern, "unknown", "patterns of names are not compared")
        for pattern, schema in writer.patterns.items():
            read = reader.patterns.get(pattern, reader.rest)
            yield from self._at(f"./{pattern}/", schema, True if read is None else read)
        if not is_closed:
            yield from self._at(".*", _or_true(writer.rest), _or_true(reader.rest))
        yield from self._names(writer, reader, is_closed)

    def _fields(self, writer: Objects, reader: Objects) -> Iterator[Obstacle]:
        for name in sorted({**writer.fields, **reader.fields}.keys() | reader.required):
            written, read = writer.field(name), reader.field(name)
            is_silent = written is None and writer.declares
            has = "required" if name in writer.required else "absent" if is_silent or written is False else "optional"
            needs = "required" if name in reader.required else "optional"
            if needs == "optional" and (read is False or name not in reader.fields):
                needs = "ignored" if read is None else "refused" if read is False else "optional"
            place = field_place(name)
            if has != needs:
                is_refused = needs == "required" or (needs == "refused" and has != "absent")
                if is_refused or (has, needs) not in (("absent", "ignored"), ("absent", "refused")):
                    yield Obstacle(place, "presence", has, needs, "certain" if is_refused else "note")
            if has != "absent" and needs != "refused":
                yield from self._at(place, _or_true(written), _or_true(read))

    def _names(self, writer: Objects, reader: Objects, is_closed: bool) -> Iterator[Obstacle]:
        if reader.names is True:
            return
        for name in sorted(writer.fields):
            for each in self.compare(all_of({"const": name}, writer.names), reader.names):
                yield replace(each, path=field_place(name), keyword="propertyNames")
        if not is_closed:
            yield from self._at("(key)", all_of({"type": "string"}, writer.names), reader.names)

    def _at(self, place: str, writer: Schema, reader: Schema) -> Iterator[Obstacle]:
        return (each.at(place) for each in self.compare(writer, reader))


def _doubted(obstacle: Obstacle, why: str) -> Obstacle:
    return obstacle if obstacle.certainty == "note" else replace(obstacle, certainty="unknown", why=obstacle.why or why)


def _is_refused(found: Iterable[Obstacle]) -> bool:
    return any(each.certainty != "note" for each in found)


def _notes(writer: Schema, reader: Schema) -> Iterator[Obstacle]:
    """What people read and no validator acts on."""
    if isinstance(writer, dict) and isinstance(reader, dict):
        for keyword in ("default", "deprecated"):
            if text_of(writer.get(keyword)) != text_of(reader.get(keyword)):
                yield Obstacle("", keyword, writer.get(keyword), reader.get(keyword), "note")


def _values(writer: Values, candidates: list[Shape]) -> Iterator[Obstacle]:
    """*candidates* are of the type of the values."""
    if not candidates:
        yield Obstacle("", "type", writer.type, "nothing")
        return
    asked = [replace(each, opaque={}) if each.opaque.keys() <= writer.opaque.keys() else each for each in candidates]
    answers = [(value, {accepts(each, value) for each in asked}) for value in writer.values]
    listed = [value for each in candidates if isinstance(each, Values) for value in each.values]
    refused = [value for value, answer in answers if answer == {False}]
    if refused and len(listed) and all(isinstance(each, Values) for each in candidates):
        yield Obstacle("", "enum", list(writer.values), listed)
    elif refused:
        yield Obstacle("", "value", refused, None)
    if unknown := [value for value, answer in answers if None in answer and True not in answer]:
        yield Obstacle(
            "", "value", unknown, None, "unknown", "a single value is not checked against a format and the like"
        )


def _numbers(writer: Numbers, reader: Numbers) -> Iterator[Obstacle]:
    for mine, theirs, sign, name in ((writer.low, reader.low, 1, "minimum"), (writer.high, reader.high, -1, "maximum")):
        if theirs is not None and (mine is None or mine < theirs):
            yield Obstacle("", name, _limit(mine, sign), _limit(theirs, sign))
    if reader.step is not None and (writer.step is None or writer.step % reader.step):
        if reader.step == 1:
            yield Obstacle("", "type", "number", "integer")
        else:
            yield Obstacle("", "multipleOf", _number(writer.step), _number(reader.step))


def _limit(bound: Bound | None, sign: int) -> Any:
    if bound is None:
        return None
    number = _number(sign * bound.value)
    return f"{'above' if sign > 0 else 'below'} {number}" if bound.is_exclusive else number


def _number(value: Any) -> Any:
    return None if value is None else int(value) if value.denominator == 1 else float(value)


def _strings(writer: Strings, reader: Strings) -> Iterator[Obstacle]:
    yield from _lengths(writer, reader, "Length")
    for pattern in sorted(reader.patterns - writer.patterns):
        known = ", ".join(sorted(writer.patterns)) or None
        why = "whether one pattern covers another is not compared" if writer.patterns or writer.formats else ""
        yield Obstacle("", "pattern", known, pattern, "unknown" if why else "certain", why)
    for name in sorted(reader.formats - writer.formats - _ANY_TEXT):
        known = ", ".join(sorted(writer.formats)) or None
        if not writer.formats & _SPECIAL_FORMATS.get(name, set()):
            why = "whether a pattern covers a format is not compared" if writer.patterns else ""
            yield Obstacle("", "type", known, name, "unknown" if why else "certain", why)


def _lengths(writer: Strings | Arrays, reader: Strings | Arrays, what: str) -> Iterator[Obstacle]:
    if writer.shortest < reader.shortest:
        yield Obstacle("", f"min{what}", writer.shortest, reader.shortest)
    if writer.longest > reader.longest:
        yield Obstacle("", f"max{what}", _shown(writer.longest), _shown(reader.longest))


def _shown(count: float) -> int | None:
    return int(count) if count != float("inf") else None


def field_place(name: str) -> str:
    """``.name``, or ``["odd name"]``."""
    return f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{json.dumps(name, ensure_ascii=False)}]"


def _type_words(document: Schema, schema: Schema) -> str:
    """As ``servicebus describe`` shows it, but not longer than a line."""
    try:
        text = Notation(document).of(schema)
    except (AttributeError, KeyError, TypeError, ValueError):
        return "what cannot be read"
    return text if len(text) <= _MOST_WORDS else f"{text[: _MOST_WORDS - 3]}..."


def _or_true(schema: Schema | None) -> Schema:
    return True if schema is None else schema
