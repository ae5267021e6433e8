"""Pages: what the documentation says of each service and published event, ready to be laid out (``contracts.site``)."""

from __future__ import annotations

import json
import pprint
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from servicebus.contracts.description import EventContract, NodeContract, Schema, ServiceContract
from servicebus.contracts.examples import examples_of
from servicebus.contracts.notation import MISSING, Notation, Parameter, fields_of, parameters_of, signature_of
from servicebus.errors import ContractError

__all__ = ["EventPage", "Field", "Page", "Structure", "make_event_pages", "make_pages", "search_index"]

_NO_NODE = "NODE"
"""Stands in addresses for the node of a group, which has none yet."""
_LONGEST_FILE_NAME = 80


@dataclass(frozen=True)
class Field:
    """A parameter, or a field of an object: a row of a table."""

    name: str
    type: str
    default: str = ""
    """As JSON; "" if there is none."""
    is_required: bool = True
    docs: str = ""


@dataclass(frozen=True)
class Structure:
    """A model, an enumeration, or the fields of an error."""

    title: str
    docs: str = ""
    fields: tuple[Field, ...] = ()
    values: tuple[str, ...] = ()
    """Of an enumeration, as JSON."""
    example: str | None = None


@dataclass(frozen=True)
class Page:
    """All that is said of one service. Texts are those of the description: of strangers, not escaped."""

    service: ServiceContract
    file: str
    """Its name in the folder of services."""
    address: str
    """Of an event service the names or patterns that it has subscribed to."""
    signature: str
    paragraphs: tuple[tuple[str, bool], ...]
    """Of the docstring; whether its lines stay as they are."""
    travel: str
    """How the params travel; "" if nothing is known of them."""
    params: tuple[Field, ...]
    params_example: str | None
    """As JSON; None if none can be made."""
    result_type: str
    result_example: str | None
    errors: tuple[Structure, ...]
    structures: tuple[Structure, ...]
    options: tuple[tuple[str, str], ...]
    schemas: tuple[tuple[str, str], ...]
    """What of, and the JSON Schema."""
    command: str
    """For a shell; "" if the command line does not reach it."""
    program: str
    stub_command: str
    """For a shell: it writes a client; "" if that has no method for it."""
    summary: str

    @property
    def kind(self) -> str:
        """In the words of people."""
        return "rpc" if self.service.kind == "call" else self.service.kind


@dataclass(frozen=True)
class EventPage:
    """All that is said of one event that the node publishes."""

    event: EventContract
    file: str
    """Its name in the folder of services."""
    paragraphs: tuple[tuple[str, bool], ...]
    type: str
    """Of the params; "" if nothing is known of them."""
    fields: tuple[Field, ...]
    example: str | None
    structures: tuple[Structure, ...]
    schema: str
    handler: str
    """A program: what subscribes to it."""
    summary: str


def make_pages(contract: NodeContract) -> list[Page]:
    """One for each service, by category and name, a former version behind the present one. Raises ContractError."""
    names: set[str] = set()
    ordered = sorted(contract, key=lambda each: (each.category, each.name, each.former, each.kind))
    found = []
    for each in ordered:
        try:
            found.append(_page(each, contract.node or _NO_NODE, _file_name((each.category, each.name), names)))
        except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
            raise ContractError(f"{each.key}: a schema is malformed: {error}") from error
    return found


def make_event_pages(contract: NodeContract) -> list[EventPage]:
    """One for each event that the node publishes, by name. Raises ContractError."""
    names, found = set[str](), list[EventPage]()
    for each in sorted(contract.publishes, key=lambda each: each.event):
        try:
            found.append(_event_page(each, _file_name(("event", *each.event.split(".")), names)))
        except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
            raise ContractError(f"event {each.event}: a schema is malformed: {error}") from error
    return found


def search_index(pages: Iterable[Page], events: Iterable[EventPage] = ()) -> list[dict[str, str]]:
    """What the search looks at: of each service and event its name, where its page is, a line, and all of its words."""
    found = [_entry(page.service.key, page.kind, page.service.version, page, _words(page)) for page in pages]
    kind = "published event"
    return found + [_entry(each.event.event, kind, each.event.version, each, _event_words(each)) for each in events]


def _entry(name: str, kind: str, version: str, page: Page | EventPage, words: Iterable[str]) -> dict[str, str]:
    return {
        "name": name,
        "kind": kind + (f" {version}" if version else ""),
        "page": page.file,
        "summary": page.summary,
        "words": " ".join(dict.fromkeys(words)),
    }


def pretty_json(value: Any) -> str:
    """Several lines, readable, and without what could hide or reorder text."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # JSON knows escapes of its own for what printable() would escape.
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def _page(service: ServiceContract, node: str, file: str) -> Page:
    address = f"{node}.{service.key}"
    parameters, is_named = parameters_of(service)
    example = _Example(service.params)
    result = _Example(service.result)
    return Page(
        service=service,
        file=file,
        address=", ".join(service.events) or address,
        signature=signature_of(service),
        paragraphs=tuple(_paragraphs(service.docs)),
        travel=_travel(service, parameters, is_named),
        params=tuple(_fields(service.params, parameters)),
        params_example=example.text,
        result_type="" if service.result is None else Notation(service.result).of(service.result),
        result_example=result.text,
        errors=tuple(_error(each.name, each.fields, each.docs) for each in service.errors),
        structures=tuple(_structures(each for _, each in _schemas(service))),
        options=tuple((name, _plain(value)) for name, value in service.options.items()),
        schemas=tuple((what, pretty_json(schema)) for what, schema in _schemas(service)),
        command=_command(service, address, example),
        program=_program(service, address, example),
        stub_command="" if service.former or service.events else f"servicebus stubs {shlex.quote(node)} -o client.py",
        summary=service.docs.strip().partition("\n")[0],
    )


def _event_page(event: EventContract, file: str) -> EventPage:
    payload = event.payload
    inner = Notation(payload).resolved(payload)
    is_object = isinstance(inner, dict) and "properties" in inner
    return EventPage(
        event=event,
        file=file,
        paragraphs=tuple(_paragraphs(event.docs)),
        type="" if payload is None else Notation(payload).of(payload),
        fields=tuple(_fields(payload, fields_of(inner))) if is_object else (),
        example=_Example(payload).text,
        structures=tuple(_structures([payload])),
        schema="" if payload is None else pretty_json(payload),
        handler=_handler(event.event, is_object=is_object),
        summary=event.docs.strip().partition("\n")[0],
    )


def _handler(event: str, *, is_object: bool) -> str:
    if is_object:
        return f"@group.event({event!r})\ndef handle(**params) -> None:\n    print(params)"
    handler = "class Handler(MessageService):\n    def handle(self, request): ...\n\n\n"
    return f"{handler}bus.add_event_service('category', 'name', Handler(), {event!r})"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Example:
    """Of a schema that may be missing, or have no example."""

    def __init__(self, schema: Schema):
        found = examples_of(schema)
        self.value: Any = found[0] if found else None
        self.text = pretty_json(found[0]) if found else None


def _file_name(words: Iterable[str], names: set[str]) -> str:
    """Unlike those in *names*, also where upper and lower case are one; of characters that every system allows."""
    stem = ".".join(re.sub(r"[^a-z0-9_-]+", "-", each.lower()) for each in words)
    found, number = stem[:_LONGEST_FILE_NAME], 1
    while found in names:
        number += 1
        found = f"{stem[:_LONGEST_FILE_NAME]}-{number}"
    names.add(found)
    return f"{found}.html"


def _paragraphs(docs: str) -> Iterator[tuple[str, bool]]:
    for text in re.split(r"\n\s*\n", docs.strip("\n")):
        if text.strip():
            yield text, re.search(r"^(\s|[-*>|]|\d+\.|[A-Z]\w*:$)", text, re.MULTILINE) is not None


def _travel(service: ServiceContract, parameters: list[Parameter], is_named: bool) -> str:
    if service.params is None:
        return ""
    if service.whole:
        return "The only parameter is the whole params."
    if not parameters:
        return "It takes no params." if service.params != {} else "The params may be anything."
    if not is_named:
        return "Params travel as an array, by position."
    return "Params travel as an object, by name, or as an array, by position."


def _fields(document: Schema, fields: Iterable[Parameter]) -> Iterator[Field]:
    notation = Notation(document)
    for each in fields:
        schema = each.schema if isinstance(each.schema, dict) else {}
        has_default = not each.is_required and each.default is not MISSING
        yield Field(
            each.stars + each.name,
            notation.of(each.schema),
            json.dumps(each.default, ensure_ascii=False) if has_default else "",
            each.is_required,
            str(schema.get("description") or _docs_of(notation.resolved(schema))),
        )


def _docs_of(schema: Schema) -> str:
    return str(schema.get("description", "")) if isinstance(schema, dict) else ""


def _error(name: str, schema: Schema, docs: str) -> Structure:
    fields = fields_of(schema) if isinstance(schema, dict) else []
    return Structure(name, docs, tuple(_fields(schema, fields)), example=_Example(schema).text if fields else None)


def _schemas(service: ServiceContract) -> Iterator[tuple[str, Schema]]:
    if service.params is not None:
        yield "params", service.params
    if service.result is not None:
        yield "result", service.result
    for each in service.errors:
        yield f"error {each.name}", each.fields


def _structures(documents: Iterable[Schema]) -> Iterator[Structure]:
    """The models and enumerations that they mention, each once."""
    seen: set[str] = set()
    for document in documents:
        if not isinstance(document, dict):
            continue
        for schema in (document, *document.get("$defs", {}).values()):
            title = str(schema.get("title", "")) if isinstance(schema, dict) else ""
            if not title or title in seen or not ("properties" in schema or "enum" in schema):
                continue
            seen.add(title)
            fields = tuple(_fields(document, fields_of(schema)))
            values = tuple(json.dumps(each, ensure_ascii=False) for each in schema.get("enum", ()))
            yield Structure(title, _docs_of(schema), fields, values)


def _command(service: ServiceContract, address: str, example: _Example) -> str:
    if service.former:
        return ""
    word = {"call": "call", "message": "send", "event": "publish", "stream": "stream"}[service.kind]
    parts = ["servicebus", word, shlex.quote(_target(service, address))]
    if service.params is not None and example.value is not None:
        text = json.dumps(example.value, ensure_ascii=not json.dumps(example.value, ensure_ascii=False).isprintable())
        parts += ["--"] * text.startswith("-") + [shlex.quote(text)]
    return " ".join(parts)


def _program(service: ServiceContract, address: str, example: _Example) -> str:
    params = pprint.pformat(example.value, width=88, sort_dicts=False).replace("\n", "\n    ")
    arguments = f"{_target(service, address)!r}, {params}"
    if service.former:
        arguments += f", contract={service.hash!r}"
    word = "publish" if service.kind == "event" else "send"
    done = f"sender.{word}({arguments})"
    if service.kind == "call":
        done = f"event_id, result = sender.call({arguments})"
    elif service.kind == "stream":
        done = f"for item in sender.stream({arguments}):\n        print(item)"
    return f'from servicebus import Sender\n\nwith Sender("conf/sender.yaml") as sender:\n    {done}'


def _target(service: ServiceContract, address: str) -> str:
    """What a program names: the address, or an event that the service has subscribed to."""
    return service.events[0].replace("*", "x").replace("#", "x") if service.events else address


def _words(page: Page) -> Iterator[str]:
    service = page.service
    yield from (service.key, page.kind, service.kind, service.version, service.docs, page.result_type, *service.events)
    if service.deprecated:
        yield f"deprecated {service.deprecated if isinstance(service.deprecated, str) else ''}"
    for each in (*page.structures, *page.errors):
        yield from (each.title, each.docs, *each.values)
        yield from _field_words(each.fields)
    yield from _field_words(page.params)
    yield from (name for name, _ in page.options)


def _event_words(page: EventPage) -> Iterator[str]:
    event = page.event
    yield from ("publishes", event.event, event.category, event.version, event.docs, page.type)
    if event.deprecated:
        yield f"deprecated {event.deprecated if isinstance(event.deprecated, str) else ''}"
    for each in page.structures:
        yield from (each.title, each.docs, *each.values)
        yield from _field_words(each.fields)
    yield from _field_words(page.fields)


def _field_words(fields: Iterable[Field]) -> Iterator[str]:
    for each in fields:
        yield from (each.name, each.type, each.docs)
