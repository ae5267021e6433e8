"""Caretaker: does for the cluster what its operator does: a member that does not find back is started again.

RabbitMQ promises no more: a member that was frozen may come back in pieces, with ``pause_minority`` too. It serves its
own connections then and knows nothing of what the others declare; or it is gone. Until somebody starts it again, the
bus cannot know which of the pieces its users are in: health says nothing about such times.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping, Set

from servicebus.errors import ServiceBusError
from tests.chaos.world import World

__all__ = ["Caretaker", "strays"]

_EVERY_S = 2.0
_WAIT_LIMIT_S = 20.0
"""A member that was killed or thawed finds back by itself, if it does."""


class Caretaker:
    """A thread of the rig's own."""

    def __init__(self, world: World):
        self.started_again: list[str] = []
        """What was done, for the report."""
        self._world = world
        self._astray_since: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def start(self) -> None:
        if self._world.cluster is not None:
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(60.0)

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            astray = strays(self._world.member_views())
            self._world.is_cluster_whole = not astray
            now = time.monotonic()
            if not astray:
                self._astray_since = None
            elif self._astray_since is None:
                self._astray_since = now
            elif now - self._astray_since > _WAIT_LIMIT_S:
                self._start_again(astray)
                self._astray_since = None

    def _start_again(self, astray: Mapping[str, Set[str]]) -> None:
        for name, seen in astray.items():
            endpoint = self._world.proxied_brokers[name]
            with endpoint.lock:
                if endpoint.is_cut_off:
                    continue
                whom = ", ".join(sorted(seen)) or "nobody"
                self.started_again.append(f"{name} ({endpoint.broker.state}, saw {whom})")
                shutil.copy(endpoint.broker.log_path, self._world.folder / "logs" / f"{name}-{time.time():.0f}.log")
                endpoint.broker.kill()
                try:
                    endpoint.broker.start()
                except ServiceBusError as error:
                    self.started_again.append(str(error))


def strays(views: Mapping[str, Set[str]]) -> dict[str, Set[str]]:
    """The members whose view is not that of most; each of those that are looked at runs, so each should see them all.

    Args:
        views: whom each member sees.
    """
    if not views:
        return {}
    (commonest, count), *_ = Counter(views.values()).most_common()
    if count == len(views) and views.keys() <= commonest:
        return {}
    astray = {name: seen for name, seen in views.items() if seen != commonest or name not in commonest}
    return astray or {name: seen for name, seen in views.items() if not views.keys() <= seen}
