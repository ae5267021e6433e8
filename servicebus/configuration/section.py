"""Reading one mapping of the configuration, so that every error names file, line and key.

A key's place is a tuple such as ``("hosts", 0, "port")``, shown as ``hosts[0].port``. No error shows a text that
stood in the configuration: it may be a secret at the wrong key. Numbers, key names and line numbers are shown.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from servicebus._nearest import nearest
from servicebus.configuration.checks import Unacceptable
from servicebus.errors import ConfigurationError

_ALIKE = 0.8
"""From this likeness on, an unknown key counts as a known one that was misspelt (difflib's ratio)."""

T = TypeVar("T")
Place = tuple[str | int, ...]


class MissingKey(ConfigurationError, KeyError):
    """Raised when a required key is not there. py-servicebus 2.x raised KeyError, so programs may catch that."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError's own shows the repr of the text


@dataclass(frozen=True)
class Where:
    """The file that is being read, and on which line each key stands. Both unknown for a dict."""

    path: str | None = None
    lines: Mapping[Place, int] = field(default_factory=dict)
    folder: str = ""
    """Where relative paths are meant from; empty for the current folder."""
    home: str | None = None
    """What ``~`` stands for at the start of a path; None if it is not known."""

    def fail(self, at: Place, message: str) -> NoReturn:
        """Raise ConfigurationError for the key at *at*."""
        raise ConfigurationError(message, path=self.shown_path, line=self.line(at), key=show(at) or None)

    @property
    def shown_path(self) -> str | None:
        """The path for errors; a text that came from no file has lines too."""
        return self.path or ("<text>" if self.lines else None)

    def line(self, at: Place) -> int | None:
        """The line of the key, or of the nearest mapping around it."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at)

    def beside(self, path: str) -> str:
        """A path as it was written, relative ones from the folder of the configuration file, ``~/`` from home."""
        if path.startswith("~"):
            if path[1:2] not in ("", "/") or self.home is None:
                raise Unacceptable("begins with ~, and it is not known whose home folder that is; write the full path")
            path = self.home + path[1:]
        return os.path.join(self.folder, path)  # noqa: PTH118 text in, text out: this package is pure


def show(at: Place) -> str:
    """``("hosts", 0, "port")`` as ``hosts[0].port``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)
    return text.removeprefix(".")


class Section:
    """One mapping; ``take`` returns the checked value of each of its keys.

    Raises:
        ConfigurationError: it is no mapping, or has a key that is neither in *known* nor in *former*.
    """

    def __init__(self, values: object, known: Sequence[str], where: Where, at: Place = (), former: Sequence[str] = ()):
        self.where = where
        self.at = at
        if not isinstance(values, Mapping):
            where.fail(at, f"{show(at) or 'the configuration'} must be a mapping of keys to values")
        self._values: Mapping[Any, Any] = values
        for name in values:
            if name not in known and name not in former:
                self._fail_unknown(str(name), known)

    def _fail_unknown(self, name: str, known: Sequence[str]) -> NoReturn:
        alike = nearest(name.lower(), known, likeness=_ALIKE)
        meant = [alike] if alike else [each for each in known if each.startswith(f"{name.lower()}_")]
        hint = f"did you mean {' or '.join(map(repr, meant))}?" if meant else f"known keys: {', '.join(sorted(known))}"
        inside = f" in {show(self.at)}" if self.at else ""
        line = self.where.line((*self.at, name))
        if meant or not self.where.lines:
            self.where.fail((*self.at, name), f"unknown key {name!r}{inside}; {hint}")
        # In YAML it may be the rest of a password: {password: one,two} has the keys "password" and "two".
        raise ConfigurationError(
            f"unknown key{inside} (not shown here: it may be part of a secret, which YAML splits at a comma or a colon"
            f" unless it is quoted); {hint}",
            path=self.where.shown_path,
            line=line,
            key=show(self.at) or None,
        )

    def __contains__(self, name: str) -> bool:
        """Whether the key was given with a value; one without (``key:`` or None) counts as not given."""
        return self._values.get(name) is not None

    def take(self, name: str, check: Callable[[Any], T], default: T) -> T:
        """The value of a key as *check* returns it, or the default if the key was not given."""
        return self.checked(name, check) if name in self else default

    def require(self, name: str, check: Callable[[Any], T]) -> T:
        """As ``take``, for a key that must be there; raises MissingKey."""
        if name not in self:
            at = (*self.at, name)
            raise MissingKey(
                f"the key {show(at)!r} is missing",
                path=self.where.shown_path,
                line=self.where.line(self.at),
                key=show(at),
            )
        return self.checked(name, check)

    def checked(self, name: str, check: Callable[[Any], T]) -> T:
        """The value of a key that is there, checked."""
        return self.check((*self.at, name), self._values[name], check)

    def check(self, at: Place, value: object, check: Callable[[Any], T]) -> T:
        """*value* through *check*, whose error gets file, line and key."""
        try:
            return check(value)
        except Unacceptable as problem:
            self.where.fail(at, f"{show(at)} {problem}")

    def section(self, name: str, known: Sequence[str]) -> Section | None:
        """The mapping below a key, or None."""
        return Section(self._values[name], known, self.where, (*self.at, name)) if name in self else None

    def mapping(self, name: str) -> Mapping[Any, Any]:
        """The mapping below a key as it is; an empty one if the key was not given."""
        values = self._values[name] if name in self else {}
        if not isinstance(values, Mapping):
            self.where.fail((*self.at, name), f"{show((*self.at, name))} must be a mapping of names")
        return values

    def items(self, name: str) -> Iterator[tuple[Place, Any]]:
        """Place and value of each item of the list below a key."""
        at = (*self.at, name)
        values = self._values[name] if name in self else ()
        if not isinstance(values, (list, tuple)):
            self.where.fail(at, f"{show(at)} must be a list")
        for index, value in enumerate(values):
            yield (*at, index), value

    def entries(self, name: str) -> Iterator[tuple[Place, Any, Any]]:
        """Place, key and value of each entry of the mapping below a key, whose keys are names of the user's choice."""
        at = (*self.at, name)
        values = self._values[name] if name in self else {}
        if not isinstance(values, Mapping):
            self.where.fail(at, f"{show(at)} must be a mapping of names")
        for key, value in values.items():
            yield (*at, key), key, value

    def path(self, name: str, check: Callable[[Any], str]) -> str | None:
        """A path, taken from the folder of the configuration file where it is relative; ``~/`` is the home folder."""
        if name not in self:
            return None
        return self.check((*self.at, name), self.checked(name, check), self.where.beside)
