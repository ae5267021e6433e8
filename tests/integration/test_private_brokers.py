"""Private brokers: real RabbitMQ nodes, real signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pika
import pytest

import servicebus.testing
from servicebus.errors import LifecycleError, ServiceBusError
from servicebus.testing import Broker, BrokerStartFailed
from servicebus.testing.ports import free_ports
from servicebus.testing.processes import is_alive, listeners, marked_processes


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def connect(broker: Broker) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(broker.url))


def put(broker: Broker, queue: str, body: bytes) -> None:
    """One confirmed, persistent message in a durable queue."""
    with connect(broker) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)


def take(broker: Broker, queue: str) -> bytes | None:
    with connect(broker) as connection:
        body: bytes | None = connection.channel().basic_get(queue, auto_ack=True)[2]
        return body


def process_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def listening_addresses(pid: int) -> set[str]:
    return {address for address, _ in listeners(pid)}


def test_a_broker_loads_its_modules_at_once(brokers: list[Broker]) -> None:
    broker = brokers[0]
    preload = broker.folder / "preload.eval"
    assert f'file:eval("{preload}")'.encode() in Path(f"/proc/{broker.pid}/environ").read_bytes().replace(b"\\", b"")
    assert broker.rabbitmqctl("eval", f'file:script("{preload}").').strip() == "{ok,ok}", "a module cannot be loaded"


def test_two_brokers_share_nothing(brokers: list[Broker]) -> None:
    a, b = brokers
    assert (a.name, b.name) == ("a", "b")
    assert a.port != b.port
    assert a.folder != b.folder
    assert process_name(a.pid) == process_name(b.pid) == "beam.smp"
    assert (a.folder / "home" / ".erlang.cookie").read_text() != (b.folder / "home" / ".erlang.cookie").read_text()
    put(a, "only-on-a", b"1")
    assert "only-on-a" in a.rabbitmqctl("list_queues", "name")
    assert "only-on-a" not in b.rabbitmqctl("list_queues", "name")


def test_what_erlang_says_in_between_is_not_taken_for_an_answer(brokers: list[Broker]) -> None:
    assert brokers[0].evaluate("1 + 1.") == "2"
    assert brokers[0]._shell is not None and brokers[0]._shell._process.stdin is not None
    brokers[0]._shell._process.stdin.write('io:format("=WARNING REPORT====~nmq-b is gone~n").\n')
    for number in range(3):
        assert brokers[0].evaluate(f'{{"{number}", foo}}.') == f'{{"{number}",foo}}'
    assert brokers[0].evaluate("no:such().").startswith("{badrpc,{'EXIT',{undef,")


def test_each_of_several_threads_gets_its_own_answer(brokers: list[Broker]) -> None:
    """The chaos rig's caretaker and its main thread ask one member at the same time."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: brokers[0].evaluate(f"{number}."), range(200), timeout=60))
    assert answers == [str(number) for number in range(200)]


def test_everything_listens_on_loopback_only(brokers: list[Broker]) -> None:
    for pid in marked_processes(brokers[0].folder):
        assert listening_addresses(pid) <= {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1
    assert listening_addresses(brokers[0].pid) == {"0100007F"}


def test_a_killed_broker_comes_back_on_its_port_with_its_data(brokers: list[Broker]) -> None:
    broker = brokers[0]
    port, pid = broker.port, broker.pid
    put(broker, "kept", b"over the kill")
    broker.kill()
    assert not is_alive(pid)
    assert broker.state == "down"
    assert not broker.answers()
    assert brokers[1].answers()
    broker.start()
    assert broker.port == port
    assert broker.pid != pid
    assert take(broker, "kept") == b"over the kill"


def test_a_port_that_another_program_has_taken_fails_the_start(brokers: list[Broker], tmp_path: Path) -> None:
    """Also if that program is a broker that answers."""
    other = brokers[0]
    (tmp_path / "late").mkdir()
    epmd_port, dist_port = free_ports(2)
    known = {"port": other.port, "epmd_port": epmd_port, "dist_port": dist_port, "pid": 0}
    (tmp_path / "late" / "node.json").write_text(json.dumps(known))
    late = Broker(tmp_path / "late", "late")
    with pytest.raises(BrokerStartFailed, match="late did not come up: its process ended"):
        late.start()
    assert not late.answers()
    wait_until(other.answers, 30)


def test_a_stopped_broker_leaves_no_process_and_starts_again(brokers: list[Broker]) -> None:
    broker = brokers[0]
    put(broker, "kept", b"over the stop")
    broker.stop()
    assert marked_processes(broker.folder) == []
    broker.start()
    assert take(broker, "kept") == b"over the stop"


def test_a_frozen_broker_answers_nothing_until_it_is_thawed(brokers: list[Broker]) -> None:
    broker = brokers[0]
    broker.freeze()
    assert broker.state == "frozen"
    assert not broker.answers(timeout_s=0.3)
    broker.thaw()
    assert broker.state == "running"
    assert broker.answers(timeout_s=60)


def test_a_frozen_broker_can_be_killed_and_stopped(brokers: list[Broker]) -> None:
    killed, stopped = brokers
    killed.freeze()
    stopped.freeze()
    killed.kill()
    stopped.stop()
    assert (killed.state, stopped.state) == ("down", "down")


def test_what_the_state_does_not_allow_is_an_error(brokers: list[Broker]) -> None:
    broker = brokers[0]
    with pytest.raises(LifecycleError, match="start is not possible while broker a is running"):
        broker.start()
    broker.kill()
    with pytest.raises(LifecycleError, match="freeze is not possible while broker a is down"):
        broker.freeze()
    broker.kill()  # killing and stopping the dead is no error: the wish has come true
    broker.stop()


def test_rabbitmqctl_returns_its_output_or_raises_its_error(brokers: list[Broker]) -> None:
    assert "guest" in brokers[0].rabbitmqctl("list_users")
    with pytest.raises(ServiceBusError, match="no-such-queue"):
        brokers[0].rabbitmqctl("delete_queue", "no-such-queue")


LISTINGS = {
    "queues": "rabbit_amqqueue:list_names()",
    "users": "rabbit_auth_backend_internal:list_users()",
    "virtual hosts": "rabbit_vhost:list_names()",
    "policies": "rabbit_policy:list()",
}
"""What rabbitmqctl shows of them, without an Erlang of its own for each look."""


def left_behind(broker: Broker) -> set[str]:
    return {what for what, listing in LISTINGS.items() if "left-behind" in broker.evaluate(f"{listing}.")}


def test_healing_makes_a_used_broker_as_new(brokers: list[Broker]) -> None:
    broker = brokers[0]
    put(broker, "left-behind", b"1")
    broker.rabbitmqctl("add_user", "left-behind", "secret")
    broker.rabbitmqctl("add_vhost", "left-behind")
    broker.rabbitmqctl("set_policy", "left-behind", ".*", '{"max-length": 1}')
    assert left_behind(broker) == set(LISTINGS)
    open_connection = connect(broker)
    broker.heal()
    assert left_behind(broker) == set()
    with pytest.raises(pika.exceptions.AMQPError):
        open_connection.channel()
    put(broker, "next", b"works")
    assert take(broker, "next") == b"works"


def test_one_configuration_line_reaches_the_broker(tmp_path: Path) -> None:
    with servicebus.testing.brokers(base_dir=tmp_path, rabbitmq_conf="channel_max = 17") as (broker,):
        with connect(broker) as connection:
            assert connection._impl.params.channel_max == 17
        put(broker, "kept", b"for the next use of this folder")
    assert marked_processes(tmp_path) == []
    with servicebus.testing.brokers(base_dir=tmp_path) as (again,):
        assert again.port == broker.port
        assert take(again, "kept") == b"for the next use of this folder"


def test_a_broker_that_does_not_come_up_says_why() -> None:
    with (
        pytest.raises(BrokerStartFailed, match=r"no\.such\.setting") as caught,
        servicebus.testing.brokers(rabbitmq_conf="no.such.setting = 1"),
    ):
        pass
    assert "broker a did not come up: its process ended" in str(caught.value)


PARENT = """
import time
import servicebus.testing
with servicebus.testing.brokers() as (broker,):
    print(broker.folder, broker.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_brokers_end_with_the_process_that_started_them(signum: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    with parent:
        folder, pid = parent.stdout.readline().split()
        assert process_name(int(pid)) == "beam.smp"
        parent.send_signal(signum)
    pool = Path(folder).parent
    wait_until(lambda: not is_alive(int(pid)) and marked_processes(pool) == [])
    wait_until(lambda: not pool.exists())
