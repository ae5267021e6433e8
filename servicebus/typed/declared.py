"""Declared errors: an exception class of the program crosses the wire with its fields.

Its fields are the parameters of its ``__init__``, each of which is also an attribute, as in a dataclass. A class that
has no ``__init__`` of its own has its ``args``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from servicebus.errors import ConfigurationError, EnvelopeError
from servicebus.typed.binding import Bound, make_binder
from servicebus.typed.results import make_writer
from servicebus.typed.signature import Signature, read_signature
from servicebus.wire.fault import RESERVED, declare

__all__ = ["DeclaredError", "declare_errors"]

_MAX_DATA_CHARS = 16 * 1024


class DeclaredError:
    """One class, and how its fields are written and read. It is looked into when that is first needed."""

    def __init__(self, kind: type[Exception], local_names: Mapping[str, Any] | None = None):
        self.kind = kind
        self.name = kind.__name__
        self._local_names = local_names

    def __repr__(self) -> str:
        return f"<DeclaredError {self.name}>"

    @cached_property
    def signature(self) -> inspect.Signature:
        """Of its fields."""
        if not inspect.isfunction(self.kind.__init__):
            return inspect.signature(lambda *args: None)
        return read_signature(self.kind, self._local_names).bound

    @cached_property
    def _bind(self) -> Callable[[bytes], Bound]:
        return make_binder(Signature(self.signature, {}, None))

    @cached_property
    def _writers(self) -> dict[str, Callable[[Any], bytes]] | None:
        """By the name of each field; None for a class that has ``args``."""
        parameters = self.signature.parameters.values()
        if any(each.kind is each.VAR_POSITIONAL for each in parameters):
            return None
        return {each.name: make_writer(each.annotation) for each in parameters}

    def write(self, error: BaseException) -> str:
        """The fields of *error* as JSON text. Raises whatever comes of those that are not what they should be."""
        if self._writers is None:
            text = f"[{','.join(_write_any(each).decode() for each in error.args)}]"
        else:
            fields = [
                f"{json.dumps(name)}:{dump(getattr(error, name)).decode()}" for name, dump in self._writers.items()
            ]
            text = f"{{{','.join(fields)}}}"
        if len(text) > _MAX_DATA_CHARS:
            what = f"the fields take {len(text)} characters, where {_MAX_DATA_CHARS} are allowed"
            raise EnvelopeError("oversized", what)
        return text

    def read(self, text: str) -> Exception:
        """The error of these fields. Raises EnvelopeError, or what the class itself raises."""
        args, kwargs = self._bind(text.encode())
        return self.kind(*args, **kwargs)


_write_any = make_writer(Any)


def declare_errors(
    service: str, *kinds: type[Exception], local_names: Mapping[str, Any] | None = None, is_known: bool = True
) -> dict[type, DeclaredError]:
    """Make *kinds* known to this program as errors of *service*, ``category.name``: its calls raise these classes.

    For callers that do not import the group of the service, which does the same. *local_names* and *is_known* are
    the group's own business.

    Raises:
        ConfigurationError: one of them is no exception class, has a name that is reserved, or that another one has.
    """
    found: dict[type, DeclaredError] = {}
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(f"service {service}: errors has {kind!r}, which is no Exception", key="services")
        if kind.__name__ in RESERVED:
            text = f"an error named {kind.__name__}, as the bus itself names one of its own: rename the class"
            raise ConfigurationError(f"service {service}: errors has {text}", key="services")
        if any(each.name == kind.__name__ for each in found.values()):
            raise ConfigurationError(f"service {service}: errors cannot have two {kind.__name__}", key="services")
        found[kind] = DeclaredError(kind, local_names)
        if is_known:
            declare(service, kind.__name__, found[kind].read)
    return found
