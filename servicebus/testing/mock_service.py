"""MockService: one service of a contract, without its code."""

from __future__ import annotations

import builtins
import time
from collections.abc import Generator, Mapping
from typing import Any, Literal

from servicebus._draining import draining
from servicebus.contracts import ServiceContract
from servicebus.contracts.examples import example_of
from servicebus.contracts.notation import MISSING, fields_of
from servicebus.errors import ContractError, InvalidParam
from servicebus.services import Request, TextService, UnboundParams
from servicebus.testing.schema_check import SchemaCheck
from servicebus.wire.fault import INVALID_PARAMS
from servicebus.wire.jsontext import decode_json, encode_json

__all__ = ["MockService"]

_MAX_TEXT_CHARS = 3000


class MockService(TextService):
    """Takes the params of a service, and replies what its schema accepts.

    Raises:
        ContractError: one of its schemas is none.
    """

    def __init__(self, described: ServiceContract, latency: float = 0.0):
        self.described = described
        self.former, self.is_stream = described.former, described.kind == "stream"
        self._latency = latency
        self._errors = {each.name: SchemaCheck(each.fields) for each in described.errors}
        self._params, self._result = SchemaCheck(described.params), SchemaCheck(described.result)
        self._names = _names_of(described)
        self._failure: Exception | None = None
        self._made: Any = None
        self.problem = ""
        """Why no reply could be made; "" if there is one."""
        try:
            self._made = _made_of(described.result, self._result)
        except ContractError as error:
            self.problem = f"{error}; give one by reply()"
        self._reply: Any = MISSING

    def __repr__(self) -> str:
        return f"<MockService {self.described.key}>"

    @property
    def is_told(self) -> bool:
        """What to answer was said by ``reply()`` or ``fail()``."""
        return self._failure is not None or self._reply is not MISSING

    def contract(self, kind: Literal["call", "message"], options: Mapping[str, Any]) -> ServiceContract:
        """As the node has described it."""
        return self.described

    def reply(self, result: Any) -> None:
        """As that of MockNode."""
        for value in result if self.is_stream else [result]:
            _must_fit(self._result, value, f"the result of {self.described.key}")
        self._failure, self._reply = None, result

    def fail(self, error: str, fields: Any = None) -> None:
        """As that of MockNode."""
        if error in self._errors:
            schema = next(each.fields for each in self.described.errors if each.name == error)
            made = _made_of(schema, self._errors[error]) if fields is None else fields
            _must_fit(self._errors[error], made, f"{error} of {self.described.key}")
            self._failure = DeclaredFailure(error, made)
            return
        kind = getattr(builtins, error, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)) or fields is not None:
            known = ", ".join(self._errors) or "none"
            raise ContractError(f"{self.described.key} does not declare an error {error}; it declares: {known}")
        self._failure = kind("asked for")

    def reset(self) -> None:
        """As that of MockNode."""
        self._failure, self._reply = None, MISSING

    # -- what the agent calls ------------------------------------------------------------------------------------------

    def bind(self, text: bytes) -> Any:
        params = decode_json(text)
        is_by_name = self._names is not None
        if params is None and not self.described.whole:
            params = []  # what a call without params sends
        by_position = isinstance(params, list) and is_by_name
        if by_position:
            params = self._by_name(params)
        problems = self._params.problems(params, of_parameters=not self.described.whole)
        if by_position and self._names is not None:
            problems = [_by_position(each, self._names) for each in problems]
        if problems:
            raise _unbound(problems)
        return params

    def call(self, params: Any, request: Request) -> Any:
        if not self.is_stream:
            return self._answer()
        draining(lambda: self._items(request.position), encode_json)()
        return None

    def _items(self, position: int) -> Generator[Any, None, None]:
        yield from self._answer()[position:]

    def _answer(self) -> Any:
        if self._latency:
            time.sleep(self._latency)
        if self._failure is not None:
            raise self._failure
        if self._reply is not MISSING:
            return self._reply
        if self.problem:
            raise ContractError(self.problem)
        if self.is_stream:
            return [self._made]
        return self._made if self.described.kind == "call" else None

    def dump(self, result: Any) -> bytes:
        return encode_json(result)

    def declared(self, error: BaseException) -> tuple[str, str] | None:
        if isinstance(error, DeclaredFailure):
            return error.name, encode_json(error.fields).decode()
        return None

    def _by_name(self, params: list[Any]) -> dict[str, Any]:
        assert self._names is not None
        if len(params) > len(self._names):
            place = (len(self._names),)
            raise _unbound([InvalidParam(place, "Unexpected positional argument", "unexpected_positional_argument")])
        return dict(zip(self._names, params, strict=False))


class DeclaredFailure(Exception):
    """Raised by a mock in place of an error that the service declares."""

    def __init__(self, name: str, fields: Any):
        super().__init__(f"{name} of a mock")
        self.name = name
        self.fields = fields


def _names_of(described: ServiceContract) -> list[str] | None:
    """The parameters of a function that takes them by name, and so by position, too; None for every other one."""
    schema = described.params
    if described.whole or not isinstance(schema, dict) or schema.get("type") != "object":
        return None
    return [each.name for each in fields_of(schema)]


def _by_position(problem: InvalidParam, names: list[str]) -> InvalidParam:
    first, *rest = problem.place or ("",)
    if first not in names or problem.kind == "missing_argument":
        return problem
    return InvalidParam((names.index(str(first)), *rest), problem.message, problem.kind)


def _made_of(schema: Any, check: SchemaCheck) -> Any:
    """Raises ContractError: no value is found."""
    if schema is None:
        return None
    made = example_of(schema)
    _must_fit(check, made, "the example")
    return made


def _must_fit(check: SchemaCheck, value: Any, what: str) -> None:
    problems = check.problems(value)
    if problems:
        raise ContractError(f"{what} is not what its schema says: {'; '.join(map(str, problems))}")


def _unbound(problems: list[InvalidParam]) -> UnboundParams:
    told = [[list(each.place), each.message, each.kind] for each in problems]
    data = encode_json({"count": len(problems), "errors": told})
    return UnboundParams(INVALID_PARAMS, "; ".join(map(str, problems))[:_MAX_TEXT_CHARS], data.decode())
