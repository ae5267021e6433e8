"""P6 and P7: whatever stops a worker from consuming is found and healed; no service is in another one's way."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from agents import Agent
from probe import Probe
from waiting import Stopwatch, wait_until

from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout, RemoteError, ServiceBusError, ServiceBusy, UnknownService
from servicebus.sender import Sender
from servicebus.testing import Broker
from tests.chaos.erlang import crash_queue, forget_consumer

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

CLOSE_ALL = '[catch rabbit_networking:close_connection(P, "told to") || P <- rabbit_networking:connections()], ok.'


def has_consumers(probe: Probe, queue: str, count: int) -> bool:
    return probe.consumers(queue) == count


def wait_serving(agent: Agent, sender: Sender, timeout_s: float = 40.0) -> None:
    """Wait until a call and a message have both been done."""
    label = f"after {time.monotonic()}"

    def call_succeeds() -> bool:
        try:
            return bool(sender.call("NODE-01.math.add", [1, 2], timeout=5)[1] == 3)
        except ServiceBusError:
            return False

    wait_until(call_succeeds, timeout_s, lambda: f"a call succeeds\n{agent.log()}")
    sender.send("NODE-01.audit.record", label)
    wait_until(lambda: label in agent.noted("recorded"), timeout_s, lambda: f"a message is handled\n{agent.log()}")


@pytest.fixture
def trio(brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender) -> tuple[Agent, Sender, Probe]:
    """An agent on one broker, a Sender and a probe."""
    agent = start_agent(brokers[:1]).wait_consuming()
    return agent, make_sender(agent.configuration()), Probe(brokers[0])


@pytest.mark.brokers(count=1)
class TestWhatStopsAWorker:
    @pytest.mark.parametrize(
        "queue", ["NODE-01.rpc", "NODE-01.messages", "NODE-01.messages.delay.1", "NODE-01.control"]
    )
    def test_a_deleted_queue_is_declared_and_consumed_again(
        self, trio: tuple[Agent, Sender, Probe], queue: str
    ) -> None:
        agent, sender, probe = trio
        pid = agent.worker()["pid"]
        probe.delete(queue)
        wait_serving(agent, sender)
        assert f"the consumer of queue {queue}, which was deleted" in agent.wait_log("reconnecting")
        assert agent.worker()["pid"] == pid
        assert agent.worker()["restarts"] == 0

    @pytest.mark.parametrize("queue", ["NODE-01.rpc", "NODE-01.control"])
    def test_a_queue_that_crashes_too_often_is_replaced(
        self, trio: tuple[Agent, Sender, Probe], brokers: list[Broker], queue: str
    ) -> None:
        """The broker does not start it again then, nor say so: a declaration would wait for a minute."""
        agent, sender, _ = trio
        brokers[0].evaluate(
            f"[begin {crash_queue(queue).removesuffix('.')}, timer:sleep(30) end || _ <- lists:seq(1, 20)]."
        )
        wait_serving(agent, sender, 55)
        wait_until(lambda: agent.worker()["healthy"], 20, agent.log)

    def test_the_queue_of_dead_letters_is_there_again_when_it_is_needed(
        self, trio: tuple[Agent, Sender, Probe]
    ) -> None:
        agent, sender, probe = trio
        probe.delete("NODE-01.dead")
        sender.send("NODE-01.audit.record", "boom")
        wait_until(lambda: probe.depth("NODE-01.dead"), 15, lambda: f"a dead letter\n{agent.log()}")
        ((_, headers),) = probe.take_all("NODE-01.dead")
        assert headers["x-servicebus-reason"] == "ValueError"

    def test_a_deleted_exchange_is_declared_again_with_its_bindings(self, trio: tuple[Agent, Sender, Probe]) -> None:
        """The worker's consumers live on and would never hear of it: only a look at the topology shows that nothing
        can reach them."""
        agent, sender, probe = trio
        probe.delete_exchange("servicebus")
        wait_serving(agent, sender)

    def test_a_consumer_that_the_broker_forgot_among_others_is_missed(
        self, brokers: list[Broker], start_agent: StartAgent
    ) -> None:
        """The other worker's consumer is still there, so nobody could tell by that queue alone."""
        agent = start_agent(brokers, workers_per_host=2).wait_consuming()
        probe = Probe(brokers[0])
        for queue in ("NODE-01.control", "NODE-01.messages", "NODE-01.messages.delay.5"):
            assert "forgotten" in brokers[0].evaluate(forget_consumer(queue))
            assert probe.consumers(queue) == 1
            wait_until(partial(has_consumers, probe, queue, 2), 20, agent.log)
        assert all(worker["state"] == "consuming" for worker in agent.workers())

    def test_a_removed_binding_is_made_again(self, trio: tuple[Agent, Sender, Probe]) -> None:
        agent, sender, probe = trio
        for queue in ("NODE-01.rpc", "NODE-01.messages"):
            probe.unbind(queue, "servicebus")
        wait_serving(agent, sender)

    def test_connections_that_the_broker_closes_are_opened_again(
        self, trio: tuple[Agent, Sender, Probe], brokers: list[Broker]
    ) -> None:
        agent, sender, _ = trio
        sender.call("NODE-01.math.add", [1, 1])
        assert brokers[0].evaluate(CLOSE_ALL) == "ok"
        wait_serving(agent, sender)
        assert len(agent.log_lines("reconnecting")) == 1
        assert agent.worker()["restarts"] == 0

    def test_a_channel_that_the_broker_closes_is_opened_again(
        self, trio: tuple[Agent, Sender, Probe], brokers: list[Broker]
    ) -> None:
        agent, sender, _ = trio
        killed = brokers[0].evaluate("[exit(C, kill) || C <- rabbit_channel:list_local()], ok.")
        assert killed == "ok"
        wait_serving(agent, sender)

    def test_work_under_way_survives_the_loss_of_the_connection(
        self, trio: tuple[Agent, Sender, Probe], brokers: list[Broker]
    ) -> None:
        """The service's thread does not notice; the redelivered call joins the run under way and is answered once."""
        agent, sender, _ = trio
        slow = sender.call_async("NODE-01.test.sleep", [1.5, "slow"])
        wait_until(lambda: agent.noted("started"))
        assert brokers[0].evaluate(CLOSE_ALL) == "ok"
        assert slow.result(10)[1] == "slow"
        assert agent.noted("started") == ["slow"]

    def test_messages_under_way_are_handled_once_over_a_loss_of_the_connection(
        self, trio: tuple[Agent, Sender, Probe], brokers: list[Broker]
    ) -> None:
        agent, sender, probe = trio
        for future in [sender.send_async("NODE-01.audit.slow", number) for number in range(150)]:
            future.result(10)
        wait_until(lambda: len(agent.noted("recorded")) > 10)
        assert brokers[0].evaluate(CLOSE_ALL) == "ok"
        wait_until(lambda: len(agent.noted("recorded")) >= 150, 15)
        wait_until(lambda: agent.worker()["backlog"] == 0 and probe.depth("NODE-01.messages") == 0)
        assert Counter(agent.noted("recorded")) == Counter(map(str, range(150)))


@pytest.mark.brokers(count=1)
def test_a_call_that_was_said_not_to_run_is_not_run_by_the_next_worker(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """A worker answers at once and acks a moment later; killed in between, it leaves the call to the next one."""
    full = start_agent(brokers).wait_consuming()
    services = [entry for entry in full.settings["services"] if entry["name"] != "sleep"]
    lacking = start_agent(brokers, services=services, journal=full.settings["journal"])
    sender = make_sender(full.configuration())
    said_not_to_run: list[str] = []
    numbers = itertools.count()

    def comes_again() -> bool:
        """Whether a call came again after its worker had said that it did not run: its ack may be quicker."""
        (pid,) = lacking.wait_consuming().worker_pids()
        label = f"call {next(numbers)}"
        try:
            sender.call("NODE-01.test.sleep", [0, label])
            return False  # by the other
        except UnknownService:
            os.kill(pid, signal.SIGKILL)
        said_not_to_run.append(label)
        before = full.counters().get("executed.call", 0)
        wait_until(lambda: sender.call("NODE-01.test.sleep", [0, "another"]))  # behind it in the queue
        wait_until(lambda: full.counters().get("executed.call", 0) > before)
        return full.counters().get("redelivered", 0) > 0 or label in full.noted("started")

    wait_until(comes_again, 60, full.log)
    assert not set(said_not_to_run) & set(full.noted("started"))


@pytest.mark.brokers(count=2)
def test_a_frozen_broker_is_left_and_taken_up_again_when_it_thaws(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """Health does not show green meanwhile, and the same worker is consuming again."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(hosts=[f"{brokers[0].host}:{brokers[0].port}"]))
    assert sender.call("NODE-01.math.add", [1, 2])[1] == 3
    pids = agent.worker_pids()
    brokers[0].freeze()
    watch = Stopwatch()
    wait_until(lambda: not agent.worker()["healthy"], 15)
    assert agent.worker(1)["healthy"]
    wait_until(lambda: watch.elapsed_s > 8)
    brokers[0].thaw()
    wait_serving(agent, sender)
    agent.wait_consuming(timeout_s=15)
    assert agent.worker_pids() == pids
    for _ in range(20):
        assert sender.call("NODE-01.math.add", [1, 2], timeout=2)[1] == 3


@pytest.mark.brokers(count=1)
def test_a_broker_that_restarts_is_taken_up_again_and_its_messages_handled(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    for future in [sender.send_async("NODE-01.audit.slow", number) for number in range(100)]:
        future.result(10)
    brokers[0].kill()
    brokers[0].start()
    agent.wait_consuming()
    wait_until(lambda: {*agent.noted("recorded")} == {*map(str, range(100))}, 15)
    assert agent.worker()["restarts"] == 0


@pytest.mark.brokers(count=1)
def test_a_worker_whose_broker_is_under_an_alarm_waits_is_not_called_healthy_and_goes_on_afterwards(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The broker does not read what we publish, so no echo can come: that is no reason to reconnect."""
    agent = start_agent(brokers, watcher_interval=0.3, watcher_timeout=0.6).wait_consuming()
    sender = make_sender(agent.configuration(path_wait=15))
    slow = sender.call_async("NODE-01.test.sleep", [1, "slow"])
    wait_until(lambda: agent.noted("started"))
    brokers[0].evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.000001), ok.")
    wait_until(lambda: agent.worker()["blocked"])
    assert not agent.worker()["healthy"]
    wait_until(lambda: agent.noted("finished"))
    watch = Stopwatch()
    wait_until(lambda: watch.elapsed_s > 1.5)
    brokers[0].evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4), ok.")
    wait_until(lambda: agent.worker()["healthy"])
    assert slow.result(10)[1] == "slow"
    assert agent.noted("started") == ["slow"]
    assert not agent.log_lines("reconnecting")
    assert sender.call("NODE-01.math.add", [1, 2], timeout=5)[1] == 3


@pytest.mark.brokers(count=1)
def test_an_alarm_that_comes_and_goes_is_no_silence(brokers: list[Broker], start_agent: StartAgent) -> None:
    """Whether the watcher sees it or sleeps meanwhile: an echo that could not be sent is not missed."""
    agent = start_agent(brokers, watcher_interval=0.3, watcher_timeout=0.6).wait_consuming()
    for _ in range(8):
        brokers[0].evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.000001), ok.")
        brokers[0].evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4), ok.")
    wait_until(lambda: agent.worker()["healthy"])
    assert not agent.log_lines("reconnecting")


@pytest.mark.brokers(count=1)
class TestServicesInEachOthersWay:
    def test_a_stuck_and_flooded_service_delays_neither_pings_nor_others(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, prefetch=20).wait_consuming()
        sender = make_sender(agent.configuration(path_ping_timeout=60))
        flooder = make_sender(agent.configuration())
        flood = [flooder.call_async("NODE-01.test.stuck", number, timeout=60) for number in range(100)]
        wait_until(lambda: agent.noted("started"))
        wait_until(lambda: agent.worker()["backlog"] == 10, what="half of the window is full")
        for number in range(30):
            assert sender.call("NODE-01.math.add", [number, 1], timeout=60)[1] == number + 1
            assert sender.ping("NODE-01", timeout=60)
        assert sender.status()["hosts"][0]["calls"] == 30, "none was busy, or sent again"
        sender.send("NODE-01.audit.record", "meanwhile")
        wait_until(lambda: "meanwhile" in agent.noted("recorded"))
        assert agent.worker()["healthy"]
        assert not any(future.done() for future in flood)

    def test_one_services_inbox_never_takes_more_than_half_of_the_window(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, prefetch=20, queue_len=1000).wait_consuming()
        sender = make_sender(agent.configuration())
        for number in range(50):
            sender.call_async("NODE-01.test.stuck", number, timeout=60)
        wait_until(lambda: agent.worker()["backlog"])
        assert sender.call("NODE-01.math.add", [1, 1], timeout=5)[1] == 2
        wait_until(lambda: agent.counters().get("busy"))
        assert agent.worker()["backlog"] == 10

    def test_busy_calls_are_tried_again_and_all_answered_within_their_deadline(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, prefetch=8).wait_consuming()
        sender = make_sender(agent.configuration())
        futures = [sender.call_async("NODE-01.test.sleep", [0.01, number], timeout=30) for number in range(100)]
        assert [future.result(30)[1] for future in futures] == list(range(100))
        assert Counter(agent.noted("started")) == Counter(map(str, range(100)))
        wait_until(lambda: agent.counters().get("busy"))

    def test_a_call_to_a_service_that_stays_full_ends_as_busy_at_its_deadline(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, prefetch=2).wait_consuming()
        sender = make_sender(agent.configuration())
        sender.call_async("NODE-01.test.stuck", timeout=60)
        wait_until(lambda: agent.noted("started"))

        def ends_as_busy() -> bool:
            watch = Stopwatch()
            with pytest.raises((ServiceBusy, CallTimeout)) as caught:
                sender.call("NODE-01.test.stuck", timeout=0.5)
            assert watch.elapsed_s > 0.4
            return caught.type is ServiceBusy  # else its last attempt was on its way: nobody knows whether it ran

        assert any(ends_as_busy() for _ in range(20))

    def test_messages_to_a_full_inbox_are_deferred_and_are_all_handled_once(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        """They wait in the delay queue, so those of another service behind them are not held up."""
        agent = start_agent(brokers, prefetch=80, queue_len=20).wait_consuming()
        sender, probe = make_sender(agent.configuration()), Probe(brokers[0])
        for future in [sender.send_async("NODE-01.audit.gated", number) for number in range(80)]:
            future.result(30)
        sender.send("NODE-01.audit.record", "not held up")
        wait_until(lambda: agent.noted("recorded") == ["not held up"], 30)
        agent.open_gate()
        wait_until(lambda: len(agent.noted("recorded")) >= 81, 30)
        assert Counter(agent.noted("recorded")) == Counter([*map(str, range(80)), "not held up"])
        assert agent.counters()["aside"] > 0
        assert probe.depth("NODE-01.dead") == 0


@pytest.mark.brokers(count=1)
class TestServicesThatFail:
    def test_a_failed_message_stands_in_the_dead_letters_with_its_reason(
        self, trio: tuple[Agent, Sender, Probe]
    ) -> None:
        agent, sender, probe = trio
        event_id = sender.send("NODE-01.audit.record", "boom")
        wait_until(lambda: probe.depth("NODE-01.dead"))
        sender.send("NODE-01.audit.record", "the next one")
        wait_until(lambda: "the next one" in agent.noted("recorded"))
        ((body, headers),) = probe.take_all("NODE-01.dead")
        assert b"boom" in body
        assert headers["x-servicebus-reason"] == "ValueError"
        assert headers["x-servicebus-detail"] == "boom it was"
        assert "sample_services.py" in headers["x-servicebus-trace"]
        assert headers["x-servicebus-host"] == agent.settings["hosts"][0]
        assert abs(int(headers["x-servicebus-letter"].split()[0]) - time.time()) < 60
        assert event_id == 1
        assert probe.depth("NODE-01.messages") == 0

    def test_a_dead_letter_that_is_put_back_as_it_is_is_a_replay(self, trio: tuple[Agent, Sender, Probe]) -> None:
        """``servicebus dead requeue`` gives it a ticket."""
        agent, sender, probe = trio
        sender.send("NODE-01.audit.record", "boom")
        wait_until(lambda: probe.depth("NODE-01.dead"))
        ((body, _),) = probe.take_all("NODE-01.dead")
        probe.publish("NODE-01.messages", body)
        wait_until(lambda: agent.counters().get("refused.replayed") == 1)
        assert probe.depth("NODE-01.dead") == 0

    def test_a_services_own_error_reaches_its_caller_with_type_and_text(
        self, trio: tuple[Agent, Sender, Probe]
    ) -> None:
        _, sender, _ = trio
        with pytest.raises(RemoteError) as caught:
            sender.call("NODE-01.test.raises", "x")
        assert (caught.value.type, caught.value.message) == ("ValueError", "no good: 'x'".replace("'", ""))
        assert caught.value.trace is None

    def test_traces_are_sent_only_where_the_agent_allows_it(
        self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
    ) -> None:
        agent = start_agent(brokers, fault_traces=True).wait_consuming()
        with pytest.raises(RemoteError) as caught:
            make_sender(agent.configuration()).call("NODE-01.test.raises", "x")
        assert "sample_services.py" in (caught.value.trace or "")

    def test_a_service_may_call_another_over_the_sender_of_its_worker(self, trio: tuple[Agent, Sender, Probe]) -> None:
        _, sender, _ = trio
        for number in range(20):
            params: list[Any] = ["NODE-01.math.add", [number, 1]]
            assert sender.call("NODE-01.test.nested", params, timeout=10)[1] == number + 1
        with pytest.raises(RemoteError) as caught:
            sender.call("NODE-01.test.nested", ["NODE-01.test.raises", "deep"], timeout=10)
        assert caught.value.type == "RemoteError"
        assert "no good: deep" in caught.value.message
