"""The description of an agent: NodeContract of the services that were registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from servicebus.contracts import EventContract, NodeContract, Schema, ServiceContract
from servicebus.contracts.description import shown_options
from servicebus.errors import ConfigurationError
from servicebus.runtime.around import as_registered
from servicebus.runtime.registration import Service
from servicebus.services import MessageService, RpcService, TextService
from servicebus.wire.envelope import CALL
from servicebus.wire.jsontext import encode_json

__all__ = ["NodeDescription", "contract_of"]


class NodeDescription:
    """What a node answers to ``describe``. Made before the workers are forked, which share it."""

    def __init__(self, contract: NodeContract):
        self._contract = contract
        self._texts: dict[str, bytes] = {}

    def text(self, key: str = "", may_know: Callable[[str, Sequence[str]], bool] | None = None) -> bytes:
        """JSON: of all services and published events, or of the services that are called ``category.name``.

        Made when it is asked for first.

        Args:
            may_know: whether a caller is told of a service, by its ``category.name`` and the patterns of its events. It
                is told of no published events.
        """
        if key not in self._texts or may_know is not None:
            services = tuple(each for each in self._contract if key in ("", each.key))
            if may_know is not None:
                services = tuple(each for each in services if may_know(each.key, each.events))
            is_part = bool(key) or may_know is not None
            found = replace(self._contract, services=services, publishes=() if is_part else self._contract.publishes)
            text = encode_json(found.to_json())
            if (key and not services) or may_know is not None:
                return text  # a stranger's key is not remembered
            self._texts[key] = text
        return self._texts[key]


def contract_of(node: str, services: Iterable[Service], events: Iterable[EventContract] = ()) -> NodeContract:
    """What other programs publish is no part of it.

    Without pydantic nothing is known of what class services take and return.

    Raises:
        ConfigurationError: ``params_type`` or ``result_type`` of a class service is nothing that has a schema.
    """
    described = tuple(_described(each) for each in services if each.plain is None)
    return NodeContract(described, node, tuple(events))


def _described(service: Service) -> ServiceContract:
    if service.stream_method and not isinstance(service.instance, TextService):
        return replace(_described(replace(service, stream_method="")), kind="stream")
    if service.events:
        return replace(_described(replace(service, events=())), kind="event", events=service.events)
    kind: Literal["call", "message"] = "call" if service.kind is CALL else "message"
    instance, options = service.instance, _options_of(service)
    if isinstance(instance, TextService):
        described: ServiceContract = instance.contract(kind, options)
        return described
    instance = as_registered(instance)
    params = _schema(service, instance, "params_type", "validation")
    result = _schema(service, instance, "result_type", "serialization") if kind == "call" else None
    whole, docs = "" if params is None else "params", _docs_of(instance)
    return ServiceContract(kind, service.category, service.name, params, result, (), whole, docs, options=options)


def _options_of(service: Service) -> dict[str, Any]:
    tasks = service.instance.tasks if isinstance(service.instance, TextService) and service.instance.is_async else None
    return shown_options(
        {
            "threads": service.threads if service.threads > 1 else None,
            "tasks": tasks,
            "idempotent": service.idempotent,
            "resumable": service.resumable,
            "retry": service.retry_schedule,
            "lock": service.lock,
            "concurrency": service.concurrency,
            "singleton": service.singleton,
            "priority": service.priority or None,
            "authorize": service.authorize,
        }
    )


def _schema(service: Service, instance: Any, name: str, mode: Literal["validation", "serialization"]) -> Schema:
    declared = getattr(instance, name, None)
    if declared is None:
        return None
    try:
        from servicebus.typed.schema import schema_of
    except ImportError:  # pydantic is an extra
        return None
    try:
        return schema_of(declared, mode)
    except Exception as error:  # by pydantic, which asks the types of the program
        what = f"service {service.key}: no schema for its {name}: {type(error).__name__}: {error}"
        raise ConfigurationError(what, key="services") from error


def _docs_of(instance: Any) -> str:
    """The docstring of its class, which is not one of ours, or of the method that serves."""
    kind = type(instance)
    methods = (getattr(kind, name, None) for name in ("handle", "on_call", "on_message"))
    ours = {base.__doc__ for base in (RpcService, MessageService)}
    ours |= {method.__doc__ for base in (RpcService, MessageService) for method in vars(base).values()}
    for each in (kind, *methods):
        docs = getattr(each, "__doc__", None)
        if docs and docs not in ours:
            return inspect.cleandoc(docs)
    return ""
