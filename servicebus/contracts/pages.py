"""Pages: what the documentation says of each service, ready to be laid out (``servicebus.contracts.site``)."""

from __future__ import annotations

import json
import pprint
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from servicebus.contracts.description import NodeContract, Schema, ServiceContract
from servicebus.contracts.examples import examples_of
from servicebus.contracts.notation import MISSING, Notation, Parameter, fields_of, parameters_of, signature_of
from servicebus.errors import ContractError

__all__ = ["Field", "Page", "Structure", "make_pages", "search_index"]

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


def make_pages(contract: NodeContract) -> list[Page]:
    """One for each service, by category and name, a former version behind the present one. Raises ContractError."""
    names: set[str] = set()
    ordered = sorted(contract, key=lambda each: (each.category, each.name, each.former, each.kind))
    found = []
    for each in ordered:
        try:
            found.append(_page(each, contract.node or _NO_NODE, _file_name(each, names)))
        except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
            raise ContractError(f"{each.key}: a schema is malformed: {error}") from error
    return found


def search_index(pages: Iterable[Page]) -> list[dict[str, str]]:
    """What the search looks at: of each service its name, where its page is, a line, and all of its words."""
    return [
        {
            "name": page.service.key,
            "kind": page.kind + (f" {page.service.version}" if page.service.version else ""),
            "page": page.file,
            "summary": page.summary,
            "words": " ".join(dict.fromkeys(_words(page))),
        }
        for page in pages
    ]


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
        address=address,
        signature=signature_of(service),
        paragraphs=tuple(_paragraphs(service.docs)),
        travel=_travel(service, parameters, is_named),
        params=tuple(_fields(service.params, parameters)),
        params_example=example.text,
        result_type="" if service.result is None else Notation(service.result).of(service.result),
        result_example=result.text,
        errors=tuple(_error(each.name, each.fields, each.docs) for each in service.errors),
        structures=tuple(_structures(service)),
        options=tuple((name, _plain(value)) for name, value in service.options.items()),
        schemas=tuple((what, pretty_json(schema)) for what, schema in _schemas(service)),
        command=_command(service, address, example),
        program=_program(service, address, example),
        stub_command="" if service.former else f"servicebus stubs {shlex.quote(node)} -o client.py",
        summary=service.docs.strip().partition("\n")[0],
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Example:
    """Of a schema that may be missing, or have no example."""

    def __init__(self, schema: Schema):
        found = examples_of(schema)
        self.value: Any = found[0] if found else None
        self.text = pretty_json(found[0]) if found else None


def _file_name(service: ServiceContract, names: set[str]) -> str:
    """Unlike those in *names*, also where upper and lower case are one; of characters that every system allows."""
    category, name = (re.sub(r"[^a-z0-9_-]+", "-", each.lower()) for each in (service.category, service.name))
    stem = f"{category}.{name}"
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


def _structures(service: ServiceContract) -> Iterator[Structure]:
    """The models and enumerations that it mentions, each once."""
    seen: set[str] = set()
    for _, document in _schemas(service):
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


def _field_words(fields: Iterable[Field]) -> Iterator[str]:
    for each in fields:
        yield from (each.name, each.type, each.docs)
