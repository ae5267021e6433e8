"""Small parts of the rig: its clock, its pace, what it reads of brokers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.chaos import erlang, faults
from tests.chaos.__main__ import main
from tests.chaos.caretaker import strays
from tests.chaos.clock import make_clock, set_clock
from tests.chaos.faults import FaultMissed, apply
from tests.chaos.health import who_consumes
from tests.chaos.kinds import KINDS
from tests.chaos.pace import Pace
from tests.chaos.plan import Plan
from tests.chaos.plants import PLANTS
from tests.chaos.processes import RigError
from tests.chaos.run_delay import RunDelay
from tests.chaos.schedule import Fault
from tests.chaos.world import Endpoint, World

ROOT = Path(__file__).parent.parent.parent
ASK = """
import sys, time
from pathlib import Path
from tests.chaos.clock import use_clock
true_time, before = time.time, time.monotonic()
use_clock(Path(sys.argv[1]))
for _ in sys.stdin:
    print(round(time.time() - true_time()), time.monotonic() - before < 60, flush=True)
"""


def test_the_wall_clock_of_a_program_is_set_from_outside_and_its_monotonic_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    make_clock(path)
    with subprocess.Popen(
        [sys.executable, "-c", ASK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT,
    ) as program:  # fmt: skip
        assert program.stdin is not None and program.stdout is not None
        for offset_s in (0, 3600, -20):
            set_clock(path, offset_s)
            program.stdin.write("ask\n")
            program.stdin.flush()
            assert program.stdout.readline() == f"{offset_s} True\n"
        program.stdin.close()


PLANT_EACH = """
import os
import servicebus.service
from tests.chaos.plants import PLANTS, plant
for name in PLANTS:
    if not (child := os.fork()):
        plant(name)
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def planted() -> tuple[dict[str, str], str]:
    """How the process of each ends, and what they say. It is wrong from then on, so each has its own."""
    done = subprocess.run(
        [sys.executable, "-c", PLANT_EACH], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    return dict(line.split() for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_finds_what_it_replaces(name: str) -> None:
    codes, errors = planted()
    assert codes.get(name) == "0", errors


ALL = frozenset({"m1", "m2", "m3"})


@pytest.mark.parametrize(
    ("views", "found"),
    [
        ({"m1": ALL, "m2": ALL, "m3": ALL}, set()),
        ({"m1": ALL - {"m2"}, "m3": ALL - {"m2"}}, set()),
        ({"m1": ALL - {"m2"}, "m2": ALL, "m3": ALL - {"m2"}}, {"m2"}),
        ({"m1": ALL - {"m2"}, "m2": frozenset({"m2"}), "m3": ALL - {"m2"}}, {"m2"}),
        ({"m1": ALL - {"m2"}, "m2": frozenset(), "m3": ALL - {"m2"}}, {"m2"}),
        ({"m1": ALL, "m2": ALL - {"m3"}, "m3": ALL}, {"m2"}),
        ({"m2": frozenset()}, {"m2"}),
        ({}, set()),
    ],
)
def test_a_member_of_the_cluster_that_is_in_pieces_is_found(views: dict[str, frozenset[str]], found: set[str]) -> None:
    assert strays(views).keys() == found


def test_what_a_thread_does_itself_is_no_wait_for_a_processor() -> None:
    delay = RunDelay()
    began = time.monotonic()
    time.sleep(0.1)
    assert 0.0 <= delay.waited_s() <= time.monotonic() - began


def test_a_pace_is_kept_whatever_a_step_costs() -> None:
    began = time.monotonic()
    for count in Pace(100.0, threading.Event()):
        if count == 20:
            break
    assert time.monotonic() - began >= 0.19


def test_a_pace_ends_when_it_is_told() -> None:
    stopping = threading.Event()
    threading.Timer(0.05, stopping.set).start()
    assert list(Pace(0.01, stopping)) == [0]


def test_what_an_outage_cost_is_caught_up_slowly() -> None:
    times = []
    for count in Pace(100.0, threading.Event()):
        times.append(time.monotonic())
        if count == 0:
            time.sleep(0.2)
        if count == 10:
            break
    assert times[10] - times[1] >= 0.05


def test_the_consumers_of_queues_are_read_from_what_the_broker_says() -> None:
    answer = (
        '[{<<"N.rpc">>,[<<"servicebus N consumes pid 12">>,\n <<"servicebus N consumes pid 13">>]},{<<"N.dead">>,[]}]'
    )
    assert erlang.read_consumers(answer) == {"N.rpc": [12, 13], "N.dead": []}
    assert erlang.read_consumers("{badrpc,nodedown}") is None


def test_what_is_in_use_is_read_from_what_the_broker_says() -> None:
    assert erlang.read_use('{3,12,[{<<"N.rpc">>,0},{<<"N.messages">>,7}]}') == (3, 12, {"N.rpc": 0, "N.messages": 7})
    assert erlang.read_use("") is None


def test_a_folder_with_the_history_of_another_run_is_refused(tmp_path: Path) -> None:
    """It would be judged as well: a run in the folder of one that was broken off reported its offences."""
    wanted = ["--list-faults", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, wanted).exit_code == 0
    (tmp_path / "history").mkdir()
    refused = CliRunner().invoke(main, wanted)
    assert refused.exit_code == 2
    assert "holds the history of another run" in refused.output


TOLD = '[{{<<"N.rpc">>,[<<"servicebus N consumes pid {pid}">>]}}]'


@pytest.mark.parametrize(
    ("answer", "is_cut_off", "found"),
    [
        (TOLD.format(pid=13), False, {"N.rpc": [12, 13]}),
        ("timeout", False, None),
        ("", True, {"N.rpc": [12]}),
    ],
)
def test_who_consumes_is_known_when_each_member_has_told(
    answer: str, is_cut_off: bool, found: dict[str, list[int]] | None
) -> None:
    proxy: Any = None
    brokers: list[Any] = [Broker(TOLD.format(pid=12)), Broker(answer)]
    first, second = (Endpoint(f"m{number}", broker, proxy) for number, broker in enumerate(brokers, 1))
    second.is_cut_off = is_cut_off
    assert who_consumes([first, second]) == found


class Broker:
    """One that gives the same answer to everything."""

    state = "running"

    def __init__(self, answer: str):
        self._answer = answer

    def evaluate(self, expressions: str) -> str:
        return "up" if expressions == "up." else self._answer


UNDEF = "{badrpc,{'EXIT',{undef,[{rabbit_networking,connections_local,[],[]}]}}}"


def broken(kind: str, answer: str) -> None:
    """Have *kind* break a broker that gives *answer*."""
    broker: Any = Broker(answer)
    proxy: Any = None
    world: Any = World(Plan(has_cluster=False, brokers=1), Path())
    world.proxied_brokers["a"] = Endpoint("a", broker, proxy)
    target = {"queue": "a/NODE-1.rpc", "store": "NODE-1@a"}.get(KINDS[kind].aims_at, "a")
    with apply(world, Fault(0.0, kind, target, 0.0)):
        pass


def test_of_a_cluster_in_pieces_no_second_member_is_taken() -> None:
    whole = ",".join(f"'servicebus-{name}@localhost'" for name in ("m1", "m2", "m3"))
    proxy: Any = None
    world = World(Plan(brokers=1), Path())
    for name, seen in (("m1", whole), ("m2", "'servicebus-m2@localhost'"), ("m3", whole)):
        broker: Any = Broker(f"[{seen}]")
        world.proxied_brokers[name] = Endpoint(name, broker, proxy)
    with pytest.raises(FaultMissed, match="in pieces"), apply(world, Fault(0.0, "broker-kill", "m1", 0.0)):
        pass


BY_ERLANG = [
    "memory-alarm",
    "disk-alarm",
    "connections-closed",
    "connection-closed",
    "queue-deleted",
    "queue-crashed",
    "consumer-cancelled",
    "consumer-forgotten",
]


@pytest.mark.parametrize("kind", ["broker-kill", "broker-stop", "broker-restart", "freeze-3s"])
def test_a_broker_that_is_still_down_is_missed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "state", "down")
    with pytest.raises(FaultMissed, match=f"{kind} a: the broker is down"):
        broken(kind, "")


FULL = ["messages-full", "events-full", "delays-full", "dead-letters-full"]


@pytest.mark.parametrize("kind", [*BY_ERLANG, *FULL])
def test_a_fault_that_the_broker_does_not_understand_fails_the_run(kind: str) -> None:
    with pytest.raises(RigError, match="a does not understand"):
        broken(kind, UNDEF)


@pytest.mark.parametrize("kind", BY_ERLANG)
def test_a_fault_that_did_nothing_is_missed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_ASKED_FOR_S", 0.0)
    with pytest.raises(FaultMissed, match=kind):
        broken(kind, "none")


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize(("answer", "told"), [("ok", "no queue takes the policy"), ("none", "cannot be taken away")])
def test_a_policy_that_holds_for_nothing_or_stays_fails_the_run(
    kind: str, answer: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_POLICY_HOLDS_S", 0.0)
    with pytest.raises(RigError, match=told):
        broken(kind, answer)


def test_a_policy_is_taken_when_each_queue_says_so() -> None:
    def says(*pairs: str) -> str:
        return f"[{{effective_policy_definition,[{','.join(pairs)}]}}]"

    overflow = '{<<"overflow">>,<<"reject-publish">>}'
    both, one = says('{<<"max-length">>,0}', overflow), says(overflow)
    assert erlang.have_taken(both + both, erlang.FULL)
    assert erlang.have_taken(one, erlang.REJECT)
    for answer in (both + one, "[]", "", says()):
        assert not erlang.have_taken(answer, erlang.FULL)
