"""AsyncAPI 3.0: the description of a node for the tools that read this format.

The node receives: each service is an operation on the channel of calls or that of messages, which are the two queues of
the node, or on those of the events that it has subscribed to. It sends the events that it publishes. The payloads are
those of contracts; the signed envelope around them is described in words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from servicebus.configuration.values import BrokerHost, host_and_port
from servicebus.contracts.description import EventContract, NodeContract, Schema, ServiceContract
from servicebus.contracts.draft7 import SharedSchemas, UniqueNames
from servicebus.contracts.examples import examples_of
from servicebus.wire.address import messages_queue, rpc_queue
from servicebus.wire.events import events_exchange

__all__ = ["asyncapi_document"]

_BINDING = "0.3.0"
_VERSION_CHARS = 12
_SCHEMAS = "#/components/schemas"
_USER = "broker-user"
_ENVELOPE = (
    "Params and results are JSON inside a signed XML envelope: version 2 of the wire format of servicebus. "
    "A client needs the secret of the bus, and a Sender of servicebus or what speaks its wire format."
)
_NODE_FAULTS = (
    "The node itself may answer that the params are invalid, that it has no such service, that it is busy or stopping, "
    "that the call has expired, or that it was interrupted."
)


def asyncapi_document(
    contract: NodeContract,
    *,
    hosts: Sequence[BrokerHost] = (),
    exchange: str = "servicebus",
    node: str = "",
    version: str = "",
) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of *contract*, as plain values.

    Args:
        hosts: the brokers, which become servers without their credentials.
        exchange: ``exchange_name`` of the configuration.
        node: the name of the node, if *contract* is that of a group; else the addresses have the parameter ``node``.
        version: of the document. By default the version that all services share, else what changes with the schemas.
    """
    return _Document(contract, hosts, exchange, node or contract.node, version).made()


class _Document:
    def __init__(self, contract: NodeContract, hosts: Sequence[BrokerHost], exchange: str, node: str, version: str):
        self._contract = contract
        self._hosts = hosts
        self._exchange = exchange
        self._node = node
        self._version = version or _version_of(contract)
        self._schemas = SharedSchemas(_SCHEMAS)
        self._names = UniqueNames()
        self._messages: dict[str, Any] = {}
        self._channels: dict[str, dict[str, Any]] = {}

    def made(self) -> dict[str, Any]:
        operations = dict(each for service in self._contract for each in self._operations(service))
        operations.update(map(self._sending, self._contract.publishes))
        servers = self._servers()
        components: dict[str, Any] = {"messages": self._messages, "schemas": self._schemas.components}
        if servers:
            components["securitySchemes"] = {_USER: {"type": "userPassword", "description": "A user of the broker."}}
        return {
            "asyncapi": "3.0.0",
            "info": self._info(),
            "defaultContentType": "application/json",
            **({"servers": servers} if servers else {}),
            "channels": self._channels,
            "operations": operations,
            "components": components,
        }

    def _info(self) -> dict[str, Any]:
        parts = (*self._contract, *self._contract.publishes)
        categories = list(dict.fromkeys(each.category for each in parts if each.category))
        return {
            "title": self._node or ", ".join(categories) or "services",
            "version": self._version,
            "description": f"{_ENVELOPE}\n\n{_NODE_FAULTS}",
            "tags": _tags(*categories),
        }

    def _servers(self) -> dict[str, Any]:
        names, found = UniqueNames(), {}
        for host in self._hosts:
            for place in host.members or ((host.host, host.port),):
                server: dict[str, Any] = {
                    "host": host_and_port(*place),
                    "protocol": "amqps" if host.use_ssl else "amqp",
                    "protocolVersion": "0-9-1",
                    "security": [{"$ref": f"#/components/securitySchemes/{_USER}"}],
                }
                if host.virtual_host != "/":
                    server["pathname"] = f"/{host.virtual_host}"
                if host.members:
                    server["description"] = f"A member of the cluster {host.name}."
                found[names.take(host.name)] = server
        return found

    # -- channels ------------------------------------------------------------------------------------------------------

    def _channel(self, key: str, message: str) -> dict[str, str]:
        """A reference to *message* in that channel, which is made when it is needed first."""
        name = _channel_key(key)
        if name not in self._channels:
            self._channels[name] = self._reply_channel() if key == "replies" else self._queue_channel(key)
        self._channels[name]["messages"][message] = {"$ref": f"#/components/messages/{message}"}
        return {"$ref": f"#/channels/{name}/messages/{message}"}

    def _queue_channel(self, key: str) -> dict[str, Any]:
        event = key.partition(" ")[2]
        name, kind = (events_exchange(self._exchange), "topic") if event else (self._exchange, "direct")
        exchange: dict[str, Any] = {"name": name, "type": kind, "durable": True, "autoDelete": False}
        vhosts = {host.virtual_host for host in self._hosts}
        if len(vhosts) == 1:
            exchange["vhost"] = vhosts.pop()
        channel: dict[str, Any] = {
            "address": event or _QUEUE_OF[key](self._node or "{node}"),
            "description": _QUEUES[key.partition(" ")[0]],
            "messages": {},
            "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": _BINDING}},
        }
        if not (self._node or event):
            channel["parameters"] = {"node": {"description": "The name of the node."}}
        return channel

    def _reply_channel(self) -> dict[str, Any]:
        return {"address": None, "description": "Replies, to the address that the call names.", "messages": {}}

    # -- operations ----------------------------------------------------------------------------------------------------

    def _operations(self, service: ServiceContract) -> Iterator[tuple[str, dict[str, Any]]]:
        """One, or one for each pattern of events: each has a channel of its own."""
        channels = [f"events {pattern}" for pattern in service.events]
        channels = channels or ["calls" if service.kind in _ANSWERED else f"{service.kind}s"]
        return (self._operation(service, channel) for channel in channels)

    def _operation(self, service: ServiceContract, channel: str) -> tuple[str, dict[str, Any]]:
        is_call = service.kind in _ANSWERED
        key = self._names.take(f"{service.key}.{service.kind}")
        message = self._message(service, key, "Params", service.params)
        about: dict[str, Any] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{_channel_key(channel)}"},
            "title": f"{service.key} {service.version}".rstrip(),
            "description": _description(service),
            "tags": _tags(service.category, *(["deprecated"] if service.deprecated else [])),
            "bindings": {
                "amqp": {
                    "deliveryMode": 1 if is_call else 2,
                    "mandatory": True,
                    "ack": True,
                    "bindingVersion": _BINDING,
                }
            },
            "messages": [self._channel(channel, message)],
        }
        if service.docs:
            about["summary"] = service.docs.splitlines()[0]
        if is_call:
            about["reply"] = self._reply(service)
        about["x-servicebus"] = _extension(service)
        return key, about

    def _sending(self, event: EventContract) -> tuple[str, dict[str, Any]]:
        """The operation by which the node publishes *event*."""
        key = self._names.take(f"{event.event}.published")
        message: dict[str, Any] = {
            "name": key,
            "title": f"Params of {event.event}",
            "contentType": "application/json",
            "payload": self._schemas.add(key, {} if event.payload is None else event.payload),
            "tags": _event_tags(event),
        }
        if examples := examples_of(event.payload):
            message["examples"] = [{"payload": each} for each in examples]
        if event.deprecated:
            message["deprecated"] = True
        self._messages[key] = message
        channel = f"events {event.event}"
        about: dict[str, Any] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{_channel_key(channel)}"},
            "title": f"{event.event} {event.version}".rstrip(),
            "description": _description(event),
            "tags": _event_tags(event),
            "bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": _BINDING}},
            "messages": [self._channel(channel, key)],
        }
        if event.docs:
            about["summary"] = event.docs.splitlines()[0]
        found = event.to_json()
        about["x-servicebus"] = {
            name: found[name] for name in ("event", "hash", "version", "deprecated") if name in found
        }
        return key, about

    def _reply(self, service: ServiceContract) -> dict[str, Any]:
        what = "result" if service.kind == "call" else "item"
        result = self._message(service, self._names.take(f"{service.key}.{what}"), what.capitalize(), service.result)
        messages = [self._channel("replies", result)]
        for error in service.errors:
            name = self._names.take(f"{service.key}.error.{error.name}")
            self._message(service, name, f"Error {error.name}", error.fields, error.docs)
            messages.append(self._channel("replies", name))
        return {
            "address": {"location": "$message.header#/reply_to"},
            "channel": {"$ref": "#/channels/replies"},
            "messages": messages,
        }

    def _message(self, service: ServiceContract, name: str, what: str, schema: Schema, docs: str = "") -> str:
        message: dict[str, Any] = {
            "name": name,
            "title": f"{what} of {service.key}",
            "contentType": "application/json",
            "payload": self._schemas.add(name, {} if schema is None else schema),
            "tags": _tags(service.category),
        }
        if examples := examples_of(schema):
            message["examples"] = [{"payload": each} for each in examples]
        if service.kind in _ANSWERED:
            message["correlationId"] = {"location": "$message.header#/correlation_id"}
        if docs:
            message["description"] = docs
        if service.deprecated:
            message["deprecated"] = True
        self._messages[name] = message
        return name


_ANSWERED = ("call", "stream")
"""The kinds of services that are called: by one result, or by many items."""
_QUEUE_OF = {"calls": rpc_queue, "messages": messages_queue}
_QUEUES = {
    "events": "Events of this name, or of names that match it: * is one word and # any number of words. Each service "
    "that has subscribed has a durable queue of its own, and gets each of them once in effect.",
    "calls": "The queue of the node's calls. It exists while the node serves it, so that a call to a node that is away "
    "comes back at once. A call expires with its deadline.",
    "messages": "The durable queue of the node's messages: each is confirmed by the broker, and waits for the node.",
}


def _channel_key(key: str) -> str:
    """A key of the document: letters, digits, dots, hyphens and underscores."""
    return "".join(_KEY_WORDS.get(each, each if each.isalnum() or each in ".-_" else "_") for each in key)


_KEY_WORDS = {" ": ".", "*": "_one_", "#": "_any_"}


def _event_tags(event: EventContract) -> list[dict[str, str]]:
    return _tags(*filter(None, [event.category]), *(["deprecated"] if event.deprecated else []))


def _description(service: ServiceContract | EventContract) -> str:
    parts = [service.docs]
    if service.deprecated:
        parts.append("Deprecated." if service.deprecated is True else f"Deprecated: {service.deprecated}")
    if isinstance(service, ServiceContract) and service.former:
        parts.append("An earlier version, for the callers that were built against it.")
    return "\n\n".join(filter(None, parts))


def _extension(service: ServiceContract) -> dict[str, Any]:
    """What AsyncAPI has no word for."""
    kept = ("service", "hash", "version", "deprecated", "former", "options", "whole")
    return {name: value for name, value in service.to_json().items() if name in kept and value}


def _tags(*names: str) -> list[dict[str, str]]:
    return [{"name": each} for each in names]


def _version_of(contract: NodeContract) -> str:
    present = [each for each in contract if not each.former]
    versions = {each.version for each in present} | {each.version for each in contract.publishes}
    if len(versions) == 1 and "" not in versions:
        return versions.pop()
    events = (f"published {each.event} {each.hash}\n" for each in sorted(contract.publishes, key=lambda it: it.event))
    return hashlib.sha256("".join((*_hashes(present), *events)).encode()).hexdigest()[:_VERSION_CHARS]


def _hashes(services: Sequence[ServiceContract]) -> Iterator[str]:
    for each in sorted(services, key=lambda each: (each.key, each.kind)):
        yield f"{each.kind} {each.key} {each.hash}\n"
