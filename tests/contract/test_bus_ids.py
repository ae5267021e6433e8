"""What a node tells of requests by their ids, whatever carries the question: the same in memory and on RabbitMQ."""

from __future__ import annotations

from typing import Any

import pytest
from bus_worlds import NODE, World

from servicebus._discovering import survey_ids
from servicebus.errors import RemoteError

DO, NOTE = f"{NODE}.test.do", f"{NODE}.log.note"
NOBODYS = "0123456789abcdef-17"


def id_of(world: World, event_id: int) -> str:
    return f"{world.sender.status()['sender']}-{int(event_id)}"


def known(world: World, *ids: str) -> list[list[dict[str, Any]]]:
    """What the node says of each; nothing while one of its workers has not read yet what another has written."""
    nodes, answers = survey_ids(world.sender, ids, [NODE], 20, 0.25)
    assert [each.name for each in nodes] == [NODE] and nodes.unreachable == {}
    told = [answer.known for answer in answers]
    assert told and all(each is not None for each in told)
    if any(each != told[0] for each in told):
        return []
    return [list(map(dict, (told[0] or {}).get(id, []))) for id in ids]


def test_an_id_that_no_node_has_is_not_known(world: World) -> None:
    assert known(world, NOBODYS) == [[]]


def test_a_call_is_known_by_its_end(world: World) -> None:
    good, _ = world.sender.call(DO, ["echo", 1], timeout=20)
    with pytest.raises(RemoteError):
        world.sender.call(DO, ["raises", "ValueError", "of the test"], timeout=20)
    ended = [[{"state": "finished", "answer": "ok"}], [{"state": "finished", "answer": "ValueError"}]]
    world.until(lambda: known(world, id_of(world, good), id_of(world, good + 1)) == ended)


def test_a_message_is_known_when_it_is_done(world: World) -> None:
    id = id_of(world, world.sender.send(NOTE, ["notes"]))
    world.until(lambda: known(world, id) == [[{"state": "finished"}]])


def test_a_call_is_known_while_it_runs(world: World) -> None:
    future = world.sender.call_async(DO, ["sleep", 3.0], timeout=60)
    id = str(future.wire_id)  # type: ignore[attr-defined]
    world.until(lambda: known(world, id) == [[{"state": "running", "attempts": 1}]])
    world.until(future.done)
    world.until(lambda: known(world, id) == [[{"state": "finished", "answer": "ok"}]])
