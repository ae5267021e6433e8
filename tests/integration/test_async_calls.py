"""AsyncSender against real brokers: failover, cancellation, several loops, forks, uvloop, and programs that end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from agents import Agent
from waiting import wait_until

from servicebus.aio import AsyncSender
from servicebus.errors import RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
Run = Callable[[Coroutine[Any, Any, Any]], Any]

ADD = "NODE-01.math.add"
RAISES = "NODE-01.test.raises"
SLEEP = "NODE-01.test.sleep"
PATIENT = "NODE-01.test.patient"
RECORD = "NODE-01.audit.record"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine to its end, by asyncio's own loop and, where it is installed, by uvloop's."""
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


def test_calls_messages_pings_and_errors(brokers: list[Broker], start_agent: StartAgent, run: Run) -> None:
    agent = start_agent(brokers).wait_consuming()

    async def main() -> None:
        async with AsyncSender(agent.configuration()) as sender:
            assert await sender.call(ADD, [20, 22]) == (1, 42)
            with pytest.raises(RemoteError, match="no good"):
                await sender.call(RAISES, [1])
            receipt = await sender.send(RECORD, "noted")
            assert receipt.confirmed_by is not None
            assert await sender.ping("NODE-01") and await sender.ping_all("NODE-01") == (2, 2)
            assert await sender.offers(ADD) and not await sender.offers("NODE-01.math.sub")
            sums = await asyncio.gather(*(sender.call(ADD, [number, 1]) for number in range(2000)))
            assert [result for _, result in sums] == list(range(1, 2001))
            assert (await sender.status())["travelling"] == 0

    run(main())
    wait_until(lambda: agent.noted("recorded") == ["noted"])


def test_calls_in_flight_move_on_when_their_broker_is_killed(
    brokers: list[Broker], start_agent: StartAgent, run: Run
) -> None:
    agent = start_agent(brokers, threads={"test.sleep": 8}).wait_consuming()

    async def main() -> None:
        async with AsyncSender(agent.configuration()) as sender:
            calls = [asyncio.create_task(sender.call(SLEEP, [0.3, number])) for number in range(40)]
            await until(lambda: len(agent.noted("finished")) >= 4)
            await asyncio.to_thread(brokers[0].kill)
            assert [result for _, result in await asyncio.gather(*calls)] == list(range(40))
        assert sorted(map(int, agent.noted("started"))) == list(range(40)), "each ran once"

    run(main())


@pytest.mark.parametrize("workers", [1, 3])
def test_a_cancelled_task_reaches_the_handler(
    brokers: list[Broker], start_agent: StartAgent, run: Run, workers: int
) -> None:
    agent = start_agent(brokers[:1], threads={"test.patient": 16}, workers_per_host=workers).wait_consuming()

    async def main() -> None:
        async with AsyncSender(agent.configuration()) as sender:
            for number in range(10):
                calls = [asyncio.create_task(sender.call(PATIENT, f"{number}-{each}")) for each in range(16)]
                expected = 16 * number + 16
                await until(lambda expected=expected: len(agent.noted("started")) == expected)  # type: ignore[misc]
                for call in calls:
                    call.cancel()
                assert all(isinstance(each, asyncio.CancelledError) for each in await gather_all(calls))
            await until(lambda: len(agent.noted("cancelled")) == 160)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sender.call(PATIENT, "limit"), 0.5)
            await until(lambda: "limit" in agent.noted("cancelled"))
            status = await sender.status()
            assert (status["travelling"], status["waiting"]) == (0, 0)
            assert (await sender.call(ADD, [1, 1]))[1] == 2

    run(main())


async def gather_all(calls: list[asyncio.Task[Any]]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.005)


def test_loops_and_threads_share_one_sender(brokers: list[Broker], start_agent: StartAgent, run: Run) -> None:
    agent = start_agent(brokers).wait_consuming()
    blocking = Sender(agent.configuration())
    sender = AsyncSender.of(blocking)
    sums: list[Any] = []

    async def many(start: int) -> None:
        calls = (sender.call(ADD, [number, 0], timeout=30) for number in range(start, start + 100))
        sums.extend(result for _, result in await asyncio.gather(*calls))

    def block(start: int) -> None:
        sums.extend(blocking.call(ADD, [number, 0], timeout=30)[1] for number in range(start, start + 100))

    work: list[Callable[[], Any]] = [
        *(lambda start=start: run(many(start)) for start in (0, 100, 200)),
        lambda: block(300),
    ]
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(sums) == list(range(400))
    run(many(400))
    run(sender.close())
    assert sorted(sums) == list(range(500))


# -- programs ----------------------------------------------------------------------------------------------------------

BEGINNING = """
import asyncio, os, sys, threading
from servicebus.aio import AsyncSender
from servicebus.configuration import Configuration
sender = AsyncSender(Configuration(CONFIG))

def add(number):
    return sender.call("NODE-01.math.add", [number, 1], timeout=20)

def sleep():
    return sender.call("NODE-01.test.sleep", [0.2, "late"], timeout=20)
"""

FORKS = """
async def main(number):
    return [result for _, result in await asyncio.gather(*(add(number + each) for each in range(10)))]

async def forking():
    waiting = asyncio.ensure_future(sleep())
    await main(0)
    child = os.fork()
    if child == 0:
        os._exit(0 if asyncio.run(main(100)) == list(range(101, 111)) else 1)
    assert await waiting == (1, "late"), "the parent's call goes on"
    assert await main(200) == list(range(201, 211))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(asyncio.run(forking()))
"""

LEAVES_ITS_LOOP = """
async def main():
    await add(0)
    waiting = asyncio.ensure_future(sleep())
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().stop()

loop = asyncio.new_event_loop()
loop.create_task(main())
loop.run_forever()
loop.close()
print(asyncio.run(add(2))[1])
"""

ENDS_WITH_CALLS = """
async def main():
    await add(0)
    waiting = [asyncio.ensure_future(sleep()) for _ in range(100)]
    await asyncio.sleep(0.01)
    print("ends")

asyncio.run(main())
"""

ENDS_WITH_A_LOOP_IN_A_THREAD = """
async def main():
    await add(0)
    print("ends", flush=True)
    ready.set()
    while True:
        await asyncio.gather(*(add(each) for each in range(50)))

ready = threading.Event()
threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
ready.wait()
"""


@pytest.mark.parametrize(
    ("program", "said", "problems"),
    [
        (FORKS, "0", []),
        (LEAVES_ITS_LOOP, "3", ["Task was destroyed but it is pending"]),
        (ENDS_WITH_CALLS, "ends", []),
        (ENDS_WITH_A_LOOP_IN_A_THREAD, "ends", []),
    ],
    ids=["forks", "leaves its loop", "ends with calls", "ends with a loop in a thread"],
)
def test_a_program_ends_without_a_hang_or_a_word_of_ours(
    brokers: list[Broker], start_agent: StartAgent, program: str, said: str, problems: list[str]
) -> None:
    agent = start_agent(brokers[:1], secret_token="a secret that no warning is about").wait_consuming()
    config = {key: agent.settings[key] for key in ("hosts", "secret_token")}
    code = BEGINNING.replace("CONFIG", repr(config)) + program
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith((" ", "task:"))]
    assert all(any(word in line for word in problems) for line in told), done.stderr
