"""A private RabbitMQ cluster: real members, real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pika
from waiting import wait_until

from servicebus.testing import Broker, Cluster
from servicebus.testing.processes import marked_processes

QUORUM = {"x-queue-type": "quorum"}


def put(broker: Broker, queue: str, body: bytes) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments=QUORUM)
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, mandatory=True)


def take(broker: Broker, queue: str) -> bytes | None:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        _, _, body = connection.channel().basic_get(queue, auto_ack=True)
        return body


def test_a_message_in_a_quorum_queue_survives_the_member_that_led_it(broker_cluster: Cluster) -> None:
    first, *others = broker_cluster.members
    put(first, "kept", b"one")
    leader = broker_cluster.leader_of("kept")
    assert leader in broker_cluster.members
    leader.kill()
    other = next(member for member in (first, *others) if member.is_running)
    wait_until(lambda: broker_cluster.leader_of("kept") not in (None, leader))
    assert take(other, "kept") == b"one"


def test_a_killed_member_comes_back_into_the_cluster_and_healing_empties_it(broker_cluster: Cluster) -> None:
    put(broker_cluster.members[0], "left", b"one")
    broker_cluster.members[1].kill()
    broker_cluster.heal()
    assert [member.state for member in broker_cluster.members] == ["running"] * 3
    assert broker_cluster.leader_of("left") is None
    put(broker_cluster.members[1], "left", b"two")
    assert take(broker_cluster.members[2], "left") == b"two"


def test_a_cluster_ends_with_the_process_that_made_it(tmp_path: Path) -> None:
    program = (
        "import sys, servicebus.testing\n"
        f"with servicebus.testing.cluster(2, {str(tmp_path)!r}) as mq: print('up', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert marked_processes(tmp_path)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not marked_processes(tmp_path), 10)
