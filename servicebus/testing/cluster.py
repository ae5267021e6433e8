"""A private RabbitMQ cluster: members that share their queues' definitions, and the messages of quorum queues.

Each member is a `Broker` with a folder of its own. What they share lies beside them: the Erlang cookie, and one epmd by
which they find each other; it belongs to the cluster, so that the death of a member is the death of that member only.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servicebus._durations import to_seconds
from servicebus.errors import ServiceBusError
from servicebus.testing.erlang import LIFT_ALARM, MEMBERS
from servicebus.testing.layout import Family, make_erlang_home
from servicebus.testing.node import Broker
from servicebus.testing.pool import launch_all, start_guard
from servicebus.testing.ports import LOOPBACK, free_ports
from servicebus.testing.processes import MARK, end_marked
from servicebus.testing.program import find_epmd

__all__ = ["Cluster", "cluster"]

_FORM_TIMEOUT_S = 60.0

# A member that finds itself without a majority pauses: the advice for three members, and the only way in which what was
# frozen for long comes back without a copy of its own of every queue.
_SETTINGS = ", {cluster_partition_handling, pause_minority}"
# The others join the first; when all start together after a stop they ask until it answers.
_JOINS = (
    ", {{cluster_nodes, {{['{node}'], disc}}}}"
    ", {{cluster_formation, [{{discovery_retry_limit, 600}}, {{discovery_retry_interval, 100}}]}}"
)

# Deleted in the usual way, each queue waits up to 5 s for a member that has just come back.
_DROP_QUORUM_QUEUES = (
    "[catch ra:force_delete_server(quorum_queues, {element(1, amqqueue:get_pid(Q)), Node})"
    " || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue,"
    " Node <- rabbit_nodes:all_running()]."
)


@contextmanager
def cluster(
    members: int = 3, base_dir: Path | str | None = None, rabbitmq_conf: str = "", ticktime_s: int = 60
) -> Iterator[Cluster]:
    """A running private cluster; all of it is ended on the way out, and also if this process is killed.

    Args:
        members: 2 to 5.
        base_dir: where their folders are made, and stay afterwards. Without it they are removed.
        rabbitmq_conf: lines for the ``rabbitmq.conf`` of each.
        ticktime_s: after how long members give up one that is frozen (Erlang's ``net_ticktime``; 60 is its default).

    Raises:
        BrokerProgramMissing: RabbitMQ is not installed.
        BrokerStartFailed: a member did not come up; the text has the tail of its log.
    """
    made = Cluster(members, base_dir, rabbitmq_conf, ticktime_s)
    try:
        made.start()
        yield made
    finally:
        made.close()


class Cluster:
    """Members of one cluster, named ``m1``, ``m2``, ...; one thread at a time.

    Any of them may be killed, stopped, frozen and started again; of three, one at a time may be away.
    """

    def __init__(
        self, members: int = 3, base_dir: Path | str | None = None, rabbitmq_conf: str = "", ticktime_s: int = 60
    ):
        if not 2 <= members <= 5:
            raise ValueError(f"members is {members}, not 2 to 5")
        self._keeps_data = base_dir is not None
        self.folder = Path(base_dir or tempfile.mkdtemp(prefix="servicebus-cluster-")).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._is_formed = False
        self._epmd: subprocess.Popen[bytes] | None = None
        (self._epmd_port,) = free_ports(1)
        first = Family(
            self.folder / "home", self._epmd_port, _SETTINGS, server_arguments=f"-kernel net_ticktime {ticktime_s}"
        )
        other = dataclasses.replace(first, settings=_SETTINGS + _JOINS.format(node="servicebus-m1@localhost"))
        self.members: list[Broker] = [
            Broker(self.folder / f"m{number}", f"m{number}", rabbitmq_conf, family=first if number == 1 else other)
            for number in range(1, members + 1)
        ]
        self._guard = start_guard(self.folder, keeps_data=self._keeps_data)

    def __repr__(self) -> str:
        return f"<Cluster {', '.join(f'{member.name} {member.port} {member.state}' for member in self.members)}>"

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of each member, as the key ``members`` of a host takes them."""
        return [f"{member.host}:{member.port}" for member in self.members]

    def start(self) -> None:
        """Start every member that is down, together; return when all of them are one cluster.

        Raises:
            BrokerStartFailed: one did not come up.
            ServiceBusError: they came up and did not find each other within a minute.
        """
        self._start_epmd()
        if not self._is_formed:
            # Alone: one that joins while the first is making its tables may find them half made, and gives up
            # ("table_attributes_mismatch", seen on a busy machine).
            launch_all(self.members[:1])
        launch_all([member for member in self.members if not member.is_running])
        self.wait_whole()
        self._is_formed = True

    def wait_whole(self, timeout_s: float = _FORM_TIMEOUT_S) -> None:
        """Wait until every member sees all others running.

        Raises:
            ServiceBusError: they did not within *timeout_s*; the text has whom each of them sees.
        """
        deadline = time.monotonic() + to_seconds("timeout_s", timeout_s)
        while not self._is_whole():
            if time.monotonic() > deadline:
                seen = "; ".join(f"{member.name} sees {sorted(_seen_by(member))}" for member in self.members)
                raise ServiceBusError(f"the cluster in {self.folder} is not whole after {timeout_s:g} s: {seen}")
            time.sleep(0.05)

    def heal(self) -> None:
        """Make it as new: all members running and in one cluster, without queues, exchanges and added users."""
        for member in self.members:
            if member.is_running:
                member.thaw()
        for member in self.members:
            # Mnesia does not come together again by itself.
            if member.is_running and len(_seen_by(member)) * 2 < len(self.members):
                member.kill()
        self.start()
        self.members[0].evaluate(_DROP_QUORUM_QUEUES)
        self.members[0].heal()
        for member in self.members[1:]:
            member.evaluate(LIFT_ALARM)

    def leader_of(self, queue: str, virtual_host: str = "/") -> Broker | None:
        """The member that leads a quorum queue, or that a classic queue lives on; None if it is unknown.

        Asked of the members in turn, so that it works with one of them dead.
        """
        question = (
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{virtual_host}">>, queue, <<"{queue}">>)), '
            "case amqqueue:get_pid(Q) of {_, Node} -> Node; Pid -> node(Pid) end."
        )
        for member in self.members:
            if member.state != "running":
                continue
            answer = member.evaluate(question).strip("'")
            for leader in self.members:
                if leader.node_name == answer:
                    return leader
        return None

    def close(self) -> None:
        """End all of it (cleanly if the data stay), and remove what is temporary."""
        for member in self.members:
            if self._keeps_data:
                member.stop()
            member.close()
        end_marked(self.folder)
        if self._epmd is not None:
            self._epmd.wait()
        self._guard.kill()
        self._guard.wait()
        if not self._keeps_data:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _is_whole(self) -> bool:
        wanted = {member.node_name for member in self.members}
        return all(_seen_by(member) == wanted for member in self.members)

    def _start_epmd(self) -> None:
        if self._epmd is not None and self._epmd.poll() is None:
            return
        make_erlang_home(self.folder / "home")
        self._epmd = subprocess.Popen(
            [str(find_epmd()), "-port", str(self._epmd_port), "-address", LOOPBACK],
            env=os.environ | {MARK: str(self.folder)}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def _seen_by(member: Broker) -> set[str]:
    """The Erlang names of the members that *member* shares its queues with, itself included."""
    if member.state != "running":
        return set()
    answer = member.evaluate(MEMBERS)
    if not answer.startswith("["):
        return set()
    return {name.strip("' ") for name in answer.strip("[]").split(",") if "@" in name}
