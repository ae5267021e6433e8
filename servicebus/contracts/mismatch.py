"""The words of a ContractMismatch: what differs between the contract that a caller was built against and the node's."""

from __future__ import annotations

from servicebus.contracts.description import ServiceContract
from servicebus.contracts.difference_words import ABSENT
from servicebus.contracts.schema_differences import Difference, compare_schemas
from servicebus.errors import ContractError, ContractMismatch

__all__ = ["explained"]

_MOST_SHOWN = 10


def explained(error: ContractMismatch, own: ServiceContract) -> ContractMismatch:
    """*error* with the difference in its text; *own* is what its caller was built against."""
    try:
        present = ServiceContract.from_json(error.present, "the node's answer")
    except ContractError:
        return error
    if own.params is None or present.params is None:
        return error
    differences = compare_schemas(own.key, "params", own.params, present.params)
    shown = [each for each in differences if each.breaks or each.keyword == "type"]
    if not shown:
        return error
    sides = [_sides(each) for each in shown[:_MOST_SHOWN]]
    mine, theirs, needed = (", ".join(f"`{each}`" for each in side if each) for side in zip(*sides, strict=True))
    told = ", ".join(filter(None, [theirs, needed and f"new and required: {needed}"]))
    more = f", and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    node, _, _ = error.address.partition(".")
    caller = f"caller: {mine}; " if mine else ""
    runs = f"node {node} runs {present.version or present.hash}: {told}{more}"
    error.args = (f"{error.address}: the contract has changed: {caller}{runs}; {error.detail}",)
    return error


def _sides(difference: Difference) -> tuple[str, str, str]:
    """What the caller has, what the node has in its place, and what the node needs besides."""
    place, old, new = difference.path or "params", difference.old, difference.new
    if difference.keyword == "presence" and old in ABSENT:
        return "", "", place
    if difference.keyword == "presence" and new in ABSENT:
        return place, f"no {place}", ""
    if difference.keyword in ("type", "presence"):
        return f"{place}: {old}", f"{place}: {new}", ""
    return "", f"{place}: {difference.text}", ""
