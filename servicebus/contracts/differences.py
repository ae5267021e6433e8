"""Differences of two contracts, service by service, and whether each breaks the callers of the older one.

Then those of the events that the node publishes, and whether each breaks the subscribers of the older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from servicebus.contracts.description import EventContract, NodeContract, Schema, ServiceContract
from servicebus.contracts.difference_words import sentence
from servicebus.contracts.schema_differences import Difference, Effect, compare_schemas

__all__ = ["compare_contracts", "compare_events", "compare_services"]

Labelled = ServiceContract | EventContract
_SEEN_BY_CALLERS = ("idempotent", "resumable", "lock", "concurrency", "retry")
_ORDER: tuple[Effect, ...] = ("breaking", "unknown", "compatible")


def compare_contracts(old: NodeContract, new: NodeContract) -> list[Difference]:
    """All differences, service by service in the order of *old*, then what is new; then those of events."""
    found: list[Difference] = []
    for each in old:
        found += _successor(each, new)
    known, kept = ({(each.kind, each.key) for each in contract} for contract in (old, new))
    changed = {key for kind, key in known - kept}
    for each in new:
        if not each.former and (each.kind, each.key) not in known and each.key not in changed:
            found.append(_of_service(each, "presence", None, each.kind, "compatible", f"the {_kind(each)} is new"))
    return [*found, *_published(old, new)]


def compare_services(old: ServiceContract, new: ServiceContract) -> list[Difference]:
    """Of two versions of one service."""
    found = [
        *_labels(old, new),
        *_schemas(old.key, "params", old.params, new.params),
        *_positions(old, new),
        *_schemas(old.key, "result", old.result, new.result),
        *_errors(old, new),
    ]
    return sorted(found, key=lambda each: _ORDER.index(each.effect))


def _published(old: NodeContract, new: NodeContract) -> Iterator[Difference]:
    before, after = ({each.event: each for each in contract.publishes} for contract in (old, new))
    for name, event in before.items():
        if name in after:
            yield from compare_events(event, after[name])
        else:
            text = "is not published any more"
            yield Difference(f"event {name}", "", "", "presence", "published", None, "breaking", text)
    for name in after:
        if name not in before:
            text = "is new"
            yield Difference(f"event {name}", "", "", "presence", None, "published", "compatible", text)


def compare_events(old: EventContract, new: EventContract) -> list[Difference]:
    """Of two versions of an event that a node publishes: what the node writes is an output, as results are."""
    subject = f"event {old.event}"
    found = [*_label(subject, old, new), *_schemas(subject, "payload", old.payload, new.payload)]
    told = [replace(each, text=each.text.replace("callers", "subscribers")) for each in found]
    return sorted(told, key=lambda each: _ORDER.index(each.effect))


def _successor(old: ServiceContract, new: NodeContract) -> Iterable[Difference]:
    versions = [each for each in new if each.key == old.key]
    same_kind = [each for each in versions if each.kind == old.kind]
    if not same_kind:
        if versions and not old.former:
            text = f"was {_kind(old)}, is now {_kind(versions[0])}"
            return [_of_service(old, "kind", old.kind, versions[0].kind, "breaking", text)]
        effect: Effect = "compatible" if old.kind == "event" else "breaking"
        return [_of_service(old, "presence", old.kind, None, effect, f"the {_kind(old)} is removed")]
    present = min(same_kind, key=lambda each: each.former)
    kept = [each for each in same_kind if each.former and each.hash == old.hash != ""]
    if old.former:
        return _former(old, present) if not kept else ()
    if kept and present.hash != old.hash:
        text = (
            "changed; callers that were built against the older version are still served by it, others by the new one"
        )
        return [_of_service(old, "former", old.hash, present.hash, "compatible", text)]
    return compare_services(old, present)


def _former(old: ServiceContract, present: ServiceContract) -> Iterable[Difference]:
    """An earlier version that is not served any more."""
    if not any(each.breaks for each in compare_services(old, present)):
        return
    text = f"the earlier version{' ' * bool(old.version)}{old.version} ({old.hash}) is no longer served"
    yield _of_service(old, "former", old.hash, None, "breaking", text)


def _labels(old: ServiceContract, new: ServiceContract) -> Iterator[Difference]:
    yield from _label(old.key, old, new)
    if old.events != new.events:
        was, now = ", ".join(old.events), ", ".join(new.events)
        yield _of_service(old, "events", was, now, "compatible", f"events: was {was}, is now {now}")
    for name in _SEEN_BY_CALLERS:
        before, after = old.options.get(name), new.options.get(name)
        if before != after:
            text = sentence(name, before, after, is_params=True)
            yield _of_service(old, name, before, after, "compatible", text)


def _label(subject: str, old: Labelled, new: Labelled) -> Iterator[Difference]:
    if old.version != new.version:
        text = f"version: was {old.version or 'not given'}, is now {new.version or 'not given'}"
        yield Difference(subject, "", "", "version", old.version, new.version, "compatible", text)
    if old.deprecated != new.deprecated:
        hint = f": {new.deprecated}" if isinstance(new.deprecated, str) and new.deprecated else ""
        text = f"is now deprecated{hint}" if new.deprecated else "is no longer deprecated"
        yield Difference(subject, "", "", "deprecated", old.deprecated, new.deprecated, "compatible", text)


def _schemas(service: str, direction: str, old: Schema | None, new: Schema | None) -> Iterable[Difference]:
    if old is not None and new is not None:
        return compare_schemas(service, direction, old, new)
    if old is new:
        return ()
    effect: Effect = "unknown" if (old is None) == (direction == "params") else "compatible"
    text = "was not described, is now" if old is None else "is no longer described"
    if effect == "unknown":
        text += ", so it cannot be compared (counts as breaking)"
    return [Difference(service, direction, "", "schema", old is not None, new is not None, effect, text)]


def _positions(old: ServiceContract, new: ServiceContract) -> Iterator[Difference]:
    """The parameters of a function may also be sent by position, in the order that the schema has them in."""
    before, after = _parameters(old), _parameters(new)
    kept = [name for name in before if name in after]
    if kept and kept != after[: len(kept)] and set(before) <= set(after):
        text = "parameters stand in another order: callers that send them by position (an array) would mix them up"
        text += " (whether any does is not known; counts as breaking)"
        yield Difference(old.key, "params", "", "order", before, after, "unknown", text)


def _parameters(service: ServiceContract) -> list[str]:
    is_object = isinstance(service.params, dict) and not service.whole
    return list(service.params.get("properties", ())) if is_object else []


def _errors(old: ServiceContract, new: ServiceContract) -> Iterator[Difference]:
    before, after = ({each.name: each for each in service.errors} for service in (old, new))
    is_renamed = bool(after.keys() - before.keys())
    for name, error in before.items():
        if name in after:
            yield from compare_schemas(old.key, f"error {name}", error.fields, after[name].fields)
        elif is_renamed:
            text = "removed, while others are new: callers that catch it may miss what replaces it (counts as breaking)"
            yield Difference(old.key, f"error {name}", "", "presence", True, False, "unknown", text)
        else:
            yield Difference(old.key, f"error {name}", "", "presence", True, False, "compatible", "is no longer raised")
    for name in after.keys() - before.keys():
        text = "new: callers that do not know it get RemoteError"
        yield Difference(old.key, f"error {name}", "", "presence", False, True, "compatible", text)


def _of_service(service: ServiceContract, keyword: str, old: Any, new: Any, effect: Effect, text: str) -> Difference:
    return Difference(service.key, "", "", keyword, old, new, effect, text)


def _kind(service: ServiceContract) -> str:
    return f"{'rpc' if service.kind == 'call' else service.kind} service"
