"""I15: a named caller is refused nothing that it may do, and gets nothing that it may not.

A refused call or stream ends with PermissionDenied; a refused message or event is a dead letter that says so, or says
that its key is not known. Other errors are no answer: the node could not be asked.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.operations import Operation, Story

__all__ = ["REFUSALS", "asked_of_callers", "broken_rights"]

REFUSALS = ("permission-denied", "signature")
"""With which the reason of a dead letter begins."""


def broken_rights(story: Story) -> Iterator[tuple[Operation, str, str]]:
    """Each operation that was refused and should pass, or passed and should be refused: it, I15, and how."""
    for operation in story.operations.values():
        if operation.may is False:
            if operation.outcome in ("ok", "fault") or any(each.attempts for each in _places(operation)):
                yield operation, "I15", f"{operation.target} passed, and its caller may not do that"
            continue
        if operation.error == "PermissionDenied":
            yield operation, "I15", f"{operation.target} was refused, and its caller may do that"
        refusal = next((each.refusal for each in _places(operation) if each.refusal), "")
        if refusal:
            yield operation, "I15", f"{operation.target} is a dead letter ({refusal}), and its caller may do that"


def asked_of_callers(story: Story) -> int:
    """How many operations of named callers there were."""
    return sum(operation.may is not None for operation in story.operations.values())


def _places(operation: Operation) -> Iterator[Operation]:
    yield operation
    yield from operation.deliveries.values()
