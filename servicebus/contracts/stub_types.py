"""The types of a stub: a class for each model, enumeration and error of the schemas."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping
from typing import Any

from servicebus.contracts.description import ErrorContract, Schema
from servicebus.contracts.notation import FORMATS, Notation, Parameter, fields_of, is_decimal

__all__ = ["StubNotation", "StubTypes", "class_name", "identifier", "in_docs"]


class StubTypes:
    """Collects classes; two of one shape are one class, and two of one name get a number.

    Args:
        used: names that classes must not have.
    """

    def __init__(self, used: Collection[str]):
        self._used = set(used)
        self._names: dict[tuple[str, str], str] = {}
        self._texts: dict[str, str] = {}

    @property
    def texts(self) -> list[str]:
        """The classes, in the order in which they were needed."""
        return list(self._texts.values())

    def taken(self, wanted: str) -> str:
        """*wanted*, or it with a number behind it; not given out again."""
        name, count = wanted, 1
        while name in self._used:
            count += 1
            name = f"{wanted}{count}"
        self._used.add(name)
        return name

    def structure(self, schema: Mapping[str, Any], notation: StubNotation, base: str = "", docs: str = "") -> str:
        """The name of the dataclass for an object."""
        wanted = class_name(str(schema.get("title") or "Params"))
        shape = (wanted, repr(sorted((each.name, notation.shape_of(each.schema)) for each in fields_of(schema))) + base)
        if shape in self._names:
            name = self._names[shape]
            self._loosen(name, schema)
            return name
        name = self._names[shape] = self.taken(wanted)
        self._texts[name] = ""  # its place, before those that its fields need
        fields = sorted(fields_of(schema), key=lambda each: not each.is_required)
        how = "eq=False" if base else "kw_only=True"
        lines = [
            f"@dataclass({how})",
            f"class {name}{base}:",
            f'    """{in_docs(docs or str(schema.get("description") or name)).replace(chr(10), chr(10) + "    ")}"""',
            "",
        ]
        lines += [self._field(each, notation) for each in fields] or ["    pass"]
        self._texts[name] = "\n".join(lines) + "\n"
        return name

    def _field(self, field: Parameter, notation: StubNotation) -> str:
        name = identifier(field.name)
        default = "" if field.is_required else "MISSING"
        key = "" if name == field.name else f'metadata={{"key": {field.name!r}}}'
        if key:
            default = f"field({f'default={default}, ' if default else ''}{key})"
        return f"    {name}: {notation.of(field.schema)}{f' = {default}' if default else ''}"

    def _loosen(self, name: str, schema: Mapping[str, Any]) -> None:
        """The same class, where a field that it needs may be left out: so it may for all."""
        lines = self._texts[name].split("\n")
        for each in fields_of(schema):
            start = f"    {identifier(each.name)}: "
            for index, line in enumerate(lines):
                if line.startswith(start) and not each.is_required and " = " not in line:
                    lines[index] = f"{line} = MISSING"
        self._texts[name] = "\n".join(lines)

    def enumeration(self, title: str, values: list[Any]) -> str:
        """The name of the class for an Enum."""
        wanted, shape = class_name(title), (class_name(title), repr(values))
        if shape not in self._names:
            name = self._names[shape] = self.taken(wanted)
            members: dict[str, Any] = {}
            for value in values:
                member = re.sub(r"\W", "_", str(value)).upper() or "EMPTY"
                member = member if member[0].isalpha() else f"VALUE_{member}"
                while member in members:
                    member += "_"
                members[member] = value
            lines = [f"class {name}(enum.Enum):", f'    """One of {len(values)} values."""', ""]
            self._texts[name] = (
                "\n".join([*lines, *(f"    {key} = {value!r}" for key, value in members.items())]) + "\n"
            )
        return self._names[shape]

    def error(self, error: ErrorContract) -> str:
        """The name of the class for a declared error."""
        schema = error.fields if isinstance(error.fields, dict) else {}
        if schema.get("type") == "array":
            return self._plain_error(error)
        titled = {**schema, "title": error.name}
        return self.structure(
            titled, StubNotation(schema, self), "(StubError)", error.docs or f"{error.name}, raised by services."
        )

    def _plain_error(self, error: ErrorContract) -> str:
        shape = (error.name, "args")
        if shape not in self._names:
            name = self._names[shape] = self.taken(class_name(error.name))
            docs = in_docs(error.docs or f"{error.name}, raised by services.")
            self._texts[name] = f'class {name}(StubError):\n    """{docs}"""\n'
        return self._names[shape]


class StubNotation(Notation):
    """Annotations, as a type checker reads them."""

    def __init__(self, document: Schema, types: StubTypes):
        super().__init__(document)
        self._types = types

    def shape_of(self, schema: Schema) -> str:
        """As text, where names stand for structures: for comparison alone."""
        return Notation.of(_Shapes(self), schema)

    def _name_of(self, reference: Mapping[str, Any]) -> str:
        return ""  # of() looks at what it refers to

    def of(self, schema: Schema) -> str:
        if schema is False:
            return "Any"  # there is no such value
        if isinstance(schema, dict) and "$ref" in schema:
            found = self.resolved(schema)
            key = str(schema["$ref"]).rpartition("/")[2]
            return self.of({"title": key, **found} if isinstance(found, dict) and _is_named(found) else found)
        return super().of(schema)

    def enumeration(self, schema: Mapping[str, Any]) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if "title" in schema and "enum" in schema:
            return self._types.enumeration(str(schema["title"]), values)
        if all(isinstance(each, (str, int, bool, type(None))) for each in values):
            return f"Literal[{', '.join(map(repr, values))}]"
        return "Any"

    def union(self, schemas: list[Schema]) -> str:
        if is_decimal(schemas):
            return "Decimal"
        found = list(dict.fromkeys(map(self.of, schemas)))
        return "Any" if "Any" in found else " | ".join(found)

    def structure(self, schema: Mapping[str, Any]) -> str:
        if "properties" in schema:
            return self._types.structure(schema, self) if "title" in schema else "dict[str, Any]"
        return super().structure(schema)

    def _array(self, schema: Mapping[str, Any]) -> str:
        if "prefixItems" in schema and schema.get("maxItems") != len(schema["prefixItems"]):
            return "list[Any]"
        return super()._array(schema)

    def formatted(self, schema: Mapping[str, Any]) -> str:
        return FORMATS.get(str(schema["format"]), "str")

    def bounded(self, name: str, schema: Schema) -> str:
        return name


class _Shapes(Notation):
    def __init__(self, of: Notation):
        self._definitions = of._definitions

    def bounded(self, name: str, schema: Schema) -> str:
        return name

    def union(self, schemas: list[Schema]) -> str:
        return " | ".join(sorted(set(super().union(schemas).split(" | "))))


def _is_named(schema: Mapping[str, Any]) -> bool:
    return "properties" in schema or "enum" in schema


def class_name(text: str) -> str:
    """``order_lines`` -> ``OrderLines``."""
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", text))
    return name if name[:1].isalpha() else f"T{name}"


def identifier(text: str) -> str:
    """A name of Python for *text*."""
    name = re.sub(r"\W", "_", text) or "_"
    name = f"n{name}" if name[0].isdigit() or name.startswith("__") else name
    return f"{name}_" if keyword.iskeyword(name) or name in ("self", "MISSING") else name


def in_docs(text: str) -> str:
    """For a docstring: what a service says ends nothing."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
