"""The client of a peer: what its file fills in, in the peer's own idioms; what it has not got raises."""

from __future__ import annotations

import array
import asyncio
import time
from typing import Any

from common.flight import check
from common.load import params
from common.surroundings import WIDTH


class Client:
    """Of a peer whose calls block.

    A peer gives what it has of the three ways to keep many calls in flight: ``futures`` (pending ones in one thread),
    ``threads`` and, as an `AsyncClient`, ``tasks``.
    """

    params: Any = params()
    """What is sent; the phases change it."""

    def connect(self) -> None:
        raise NotImplementedError

    def call(self) -> Any:
        """One call; returns the answer."""
        raise NotImplementedError

    def sequential(self, seconds: float) -> array.array[int]:
        """One call after another; returns how long each took, in ns."""
        now, call, spent = time.perf_counter_ns, self.call, array.array("q")
        start = now()
        deadline = start + int(seconds * 1e9)
        while start < deadline:
            answer = call()
            end = now()
            spent.append(end - start)
            start = end
            check(answer)
        return spent

    def prepare(self, phase: str, width: int) -> None:
        """What is made before the clock starts (threads, connections)."""

    def futures(self, seconds: float, width: int) -> int:
        """Keeps *width* calls pending; returns how many were answered."""
        raise NotImplementedError

    def threads(self, seconds: float, width: int) -> int:
        """The same by *width* threads."""
        raise NotImplementedError

    def publish(self) -> None:
        """One message; returns once it is confirmed, where the peer confirms."""
        raise NotImplementedError

    def publish_window(self, count: int) -> None:
        """*count* messages, many of them unconfirmed at a time where the peer can."""
        for _ in range(count):
            self.publish()

    def drain(self) -> None:
        """Returns when nothing that was published is still in this process (for peers without confirms)."""

    def close(self) -> None:
        pass


class AsyncClient:
    """Of a peer whose ``connect``, ``call`` and ``publish`` are coroutines."""

    params: Any = params()

    async def connect(self) -> None:
        raise NotImplementedError

    async def call(self) -> Any:
        raise NotImplementedError

    async def publish(self) -> None:
        raise NotImplementedError

    async def sequential(self, seconds: float) -> array.array[int]:
        now, call, spent = time.perf_counter_ns, self.call, array.array("q")
        start = now()
        deadline = start + int(seconds * 1e9)
        while start < deadline:
            answer = await call()
            end = now()
            spent.append(end - start)
            start = end
            check(answer)
        return spent

    async def prepare(self, phase: str, width: int) -> None:
        pass

    async def tasks(self, seconds: float, width: int) -> int:
        deadline, call = time.perf_counter() + seconds, self.call

        async def work() -> int:
            count = 0
            while time.perf_counter() < deadline:
                check(await call())
                count += 1
            return count

        return sum(await asyncio.gather(*(work() for _ in range(width))))

    async def publish_window(self, count: int) -> None:
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                await self.publish()

        await asyncio.gather(*(work() for _ in range(WIDTH)))

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        pass
