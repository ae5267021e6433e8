"""YAML text -> plain dicts, lists and texts, and the line of every key.

Every scalar stays its text (or None): the check of its key says what it means, so that nothing is lost on the way to a
type that YAML guessed. Built from PyYAML's nodes, because they know their lines and because a constructor would let a
duplicate key win in silence. Knows one tag, ``!file``. Text of the file never enters an error: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import yaml

from servicebus.configuration.checks import Unacceptable
from servicebus.configuration.hosts import HOST_KEYS, TLS_KEYS
from servicebus.configuration.keys import ALL_KEYS, FORMER_KEYS
from servicebus.configuration.parts import LOGGING_KEYS, METRICS_KEYS, ROTATE_KEYS, SERVICE_KEYS
from servicebus.configuration.section import Place, Where, show
from servicebus.errors import ConfigurationError

MAX_DEPTH = 16
MAX_NODES = 50_000
"""Bounds what aliases can multiply: a billion laughs end here."""

_UNKNOWN_TAG = "unknown tag; the only one known here is '!file path'"
_HOW_VARIABLES = "write ${NAME} or ${NAME:-default}; for a plain ${ write $${"
_STANDARD = "tag:yaml.org,2002:"
_MERGE = _STANDARD + "merge"
_SCALARS = frozenset(_STANDARD + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "value"))
_VARIABLE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_]\w*)(\}|:-))?", re.ASCII)
_VARIABLE_OR_END = re.compile(rf"{_VARIABLE.pattern}|\}}", re.ASCII)
_BOM = "\ufeff"
_SECTIONS = (HOST_KEYS, TLS_KEYS, SERVICE_KEYS, LOGGING_KEYS, ROTATE_KEYS, METRICS_KEYS)
_KNOWN_KEYS = frozenset((*ALL_KEYS, *FORMER_KEYS)).union(*_SECTIONS)
_HARMLESS = re.compile(r"'(?:<[a-z ]+>|\\{0,2}.)'")
"""What PyYAML quotes without telling a secret: its own token names, and single characters."""


def read_yaml(
    text: str,
    path: str | None,
    folder: str,
    environment: Mapping[str, str],
    read_file: Callable[[str], str] | None,
    home: str | None = None,
) -> tuple[Any, Where]:
    """The document and where its keys stand.

    Args:
        path: of the file, for errors.
        folder: where relative paths are meant from.
        environment: where ``${NAME}`` is looked up.
        read_file: returns the text of a path for ``!file``; None where files must not be read.
        home: what ``~`` at the start of a path stands for; None if it is not known.

    Raises:
        ConfigurationError: not YAML, empty, duplicate key, unknown tag, unset variable, unreadable ``!file``.
    """
    shown = path or "<text>"
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise ConfigurationError("the configuration is empty", path=shown)
        builder = _Builder(Where(path, folder=folder, home=home), environment, read_file)
        return builder.build(node, ()), builder.where
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigurationError(_not_yaml(error.problem), path=shown, line=mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(_not_yaml("a character that YAML does not allow"), path=shown, line=line) from None
    except (yaml.YAMLError, ValueError, OverflowError):  # the last two: an escape such as "\UFFFFFFFF"
        raise ConfigurationError(_not_yaml(None), path=shown) from None
    except RecursionError:
        raise ConfigurationError("the configuration is nested too deeply", path=shown) from None


def _not_yaml(problem: str | None) -> str:
    if not problem:
        return "not valid YAML"
    # PyYAML also quotes the names of tags and aliases: perhaps an unquoted password that begins with ! or *.
    quotes = [place for place in map(problem.find, "'\"") if place >= 0] if _quotes_more(problem) else []
    return f"not valid YAML: {problem[: min(quotes)] + 'something' if quotes else problem}"


def _quotes_more(problem: str) -> bool:
    return any(quote in _HARMLESS.sub("", problem) for quote in "'\"")


class _Builder:
    def __init__(self, where: Where, environment: Mapping[str, str], read_file: Callable[[str], str] | None):
        self._environment = environment
        self._read_file = read_file
        self._lines: dict[Place, int] = {}
        self._nodes = 0
        self.where = replace(where, lines=self._lines)

    def build(self, node: yaml.Node, at: Place) -> Any:
        self._lines.setdefault(at, node.start_mark.line + 1)
        self._nodes += 1
        if len(at) > MAX_DEPTH or self._nodes > MAX_NODES:
            self.where.fail(at, "the configuration is nested too deeply or too large")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == _STANDARD + "seq":
            return [self.build(item, (*at, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode) or node.tag != _STANDARD + "map":
            self.where.fail(at, _UNKNOWN_TAG)
        return self._mapping(node, at)

    def _mapping(self, node: yaml.MappingNode, at: Place) -> dict[str, Any]:
        merged = self._merged(node, at)
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _SCALARS:
                raise ConfigurationError("a key must be a plain text", path=self.where.shown_path, line=line)
            key = key_node.value
            place = (*at, key)
            if key in found:
                shown = f"the key {key!r}" if key in _KNOWN_KEYS else "a key"  # else it may be part of a secret
                raise ConfigurationError(
                    f"{shown} stands here a second time; first on line {self._lines[place]}",
                    path=self.where.shown_path,
                    line=line,
                    key=show(at) or None,
                )
            self._lines[place] = line
            found[key] = self.build(value_node, place)
        return {**merged, **found}

    def _merged(self, node: yaml.MappingNode, at: Place) -> dict[str, Any]:
        """What merge keys (``<<``) bring; the first of several mappings that has a key counts, as YAML says."""
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                continue
            built = self.build(value_node, at)
            for each in built if isinstance(built, list) else [built]:
                if not isinstance(each, dict):
                    raise ConfigurationError(
                        "a merge key (<<) takes a mapping, or a list of mappings",
                        path=self.where.shown_path,
                        line=key_node.start_mark.line + 1,
                    )
                merged = {**each, **merged}
        return merged

    def _scalar(self, node: yaml.ScalarNode, at: Place) -> str | None:
        if node.tag == "!file":
            return self._file(self._expand(node.value, at), at)
        if node.tag not in _SCALARS:
            self.where.fail(at, _UNKNOWN_TAG)
        return None if node.tag == _STANDARD + "null" else self._expand(node.value, at)

    def _file(self, path: str, at: Place) -> str:
        if self._read_file is None:
            self.where.fail(at, "!file is only read by Configuration.load()")
        try:
            full = self.where.beside(path)
        except Unacceptable as problem:
            self.where.fail(at, f"the path of !file {problem}")
        try:
            # What editors add, a newline behind and a byte order mark in front, is no part of the secret.
            return self._read_file(full).removeprefix(_BOM).rstrip("\r\n")
        except UnicodeDecodeError:
            self.where.fail(at, f"!file {full} is not UTF-8 text")
        except (OSError, ValueError) as error:
            self.where.fail(at, f"!file {full} cannot be read: {getattr(error, 'strerror', None) or 'bad path'}")

    def _expand(self, text: str, at: Place) -> str:
        """Put in ``${NAME}`` and ``${NAME:-default}`` as the shell does; ``$${`` stands for ``${`` itself."""
        return self._expanded(text, 0, at, _VARIABLE)[0]

    def _expanded(self, text: str, start: int, at: Place, stops: re.Pattern[str]) -> tuple[str, int]:
        """*text* from *start* on with its variables put in, to its end or to the ``}`` of a default; where it ended."""
        parts: list[str] = []
        while match := stops.search(text, start):
            parts.append(text[start : match.start()])
            start = match.end()
            if match[0] == "}":
                return "".join(parts), start
            if match[0] == "$${":
                parts.append("${")
                continue
            name, follows = match[1], match[2]
            default: str | None = None
            if follows == ":-":
                default, start = self._expanded(text, start, at, _VARIABLE_OR_END)
            parts.append(self._variable(name, default, at))
        if stops is _VARIABLE_OR_END:
            self.where.fail(at, _HOW_VARIABLES)
        return "".join([*parts, text[start:]]), len(text)

    def _variable(self, name: str | None, default: str | None, at: Place) -> str:
        if name is None:
            self.where.fail(at, _HOW_VARIABLES)
        found = self._environment.get(name)
        if found is None and default is None:
            self.where.fail(at, f"the environment variable {name} is not set; ${{{name}:-default}} gives a default")
        return found or default or ""
