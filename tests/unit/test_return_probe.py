"""ReturnProbe: an exchange with an alternate exchange is found, because nothing comes back from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transport_rigs import Line, MemoryRig, Peer
from virtual_time import VirtualTime, virtual_time

from servicebus.transport.returns import ReturnProbe
from servicebus.transport.steps import declare_exchange, declare_queue


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    with virtual_time(monkeypatch) as time:
        yield asking(time)


def asking(time: VirtualTime) -> Line:
    line = Peer(MemoryRig(time)).opened().channel()
    line.ask(declare_exchange("bus"), declare_queue("alternate", durable=True))
    return line


@pytest.mark.parametrize("has_alternate", [False, True])
def test_it_comes_back_unless_the_exchange_has_an_alternate(line: Line, has_alternate: bool) -> None:
    rig = line.rig
    assert isinstance(rig, MemoryRig)
    if has_alternate:
        rig.broker.alternates["bus"] = "alternate"
    probe, went_on = ReturnProbe("mq-a", "bus"), list[object]()
    probe.publish(line.open_channel, went_on.append)
    assert len(went_on) == 1, "the step does not wait"
    line.sync()
    assert [probe.returned(each) for each in line.returned] == ([] if has_alternate else [True])
    assert probe.came_back is not has_alternate


def test_what_else_comes_back_is_not_the_probe(line: Line) -> None:
    probe = ReturnProbe("mq-a", "bus")
    line.publish("nowhere", "a", exchange="bus")
    line.sync()
    assert [probe.returned(each) for each in line.returned] == [False]
    assert not probe.came_back


def test_its_errors_name_the_exchange_and_what_to_do() -> None:
    probe = ReturnProbe("mq-a", "bus")
    assert (probe.failure().kind, probe.no_exchange().kind) == ("topology", "topology")
    assert "remove its alternate exchange" in str(probe.failure())
    assert "there is no exchange bus" in str(probe.no_exchange()) and "set_permissions" in str(probe.no_exchange())
