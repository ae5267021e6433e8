"""Private brokers for a program or a test: started together, ended together, whatever happens to the program."""

from __future__ import annotations

import os
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import servicebus
from servicebus.testing.node import Broker

__all__ = ["BrokerPool", "brokers", "launch_all", "start_guard"]


@contextmanager
def brokers(
    count: int = 1, base_dir: Path | str | None = None, rabbitmq_conf: str = "", plugins: Sequence[str] = ()
) -> Iterator[list[Broker]]:
    """*count* running private brokers named ``a``, ``b``, ...; all are ended on the way out.

    They end as well if this process is killed, even by ``kill -9``.

    Args:
        count: 1 to 26.
        base_dir: where their folders are made, and stay afterwards for you to look at. Without it they lie in a
            temporary folder that is removed.
        rabbitmq_conf: lines for the ``rabbitmq.conf`` of each.
        plugins: of RabbitMQ, enabled on each: ``["rabbitmq_management"]``.

    Raises:
        BrokerProgramMissing: RabbitMQ is not installed.
        BrokerStartFailed: one did not come up; the text has the tail of its log.
    """
    pool = BrokerPool(base_dir, rabbitmq_conf, plugins)
    try:
        yield pool.take(count)
    finally:
        pool.close()


class BrokerPool:
    """Private brokers that are started when they are first wanted, and ended by `close` or with this process.

    One thread at a time.
    """

    def __init__(self, base_dir: Path | str | None = None, rabbitmq_conf: str = "", plugins: Sequence[str] = ()):
        self._keeps_data = base_dir is not None
        self.folder = Path(base_dir or tempfile.mkdtemp(prefix="servicebus-brokers-")).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rabbitmq_conf, self._plugins = rabbitmq_conf, plugins
        self._brokers: list[Broker] = []
        self._guard = start_guard(self.folder, keeps_data=self._keeps_data)

    def take(self, count: int) -> list[Broker]:
        """The first *count* brokers, those that are new started together; others are given as they are."""
        if not 1 <= count <= len(string.ascii_lowercase):
            raise ValueError(f"count is {count}, not 1 to {len(string.ascii_lowercase)}")
        names = string.ascii_lowercase[len(self._brokers) : count]
        new = [Broker(self.folder / name, name, self._rabbitmq_conf, plugins=self._plugins) for name in names]
        self._brokers += new
        launch_all(new)
        return self._brokers[:count]

    def heal(self, count: int) -> list[Broker]:
        """As `take`, and each as new: whatever the last user did to it is undone."""
        taken = self.take(count)
        down = [broker for broker in taken if not broker.is_running]
        launch_all(down)
        for broker in taken:
            broker.heal()
        return taken

    def close(self) -> None:
        """End the brokers (cleanly if their data stay), and remove what is temporary."""
        for broker in self._brokers:
            if self._keeps_data:
                broker.stop()
            broker.close()
        self._guard.kill()
        self._guard.wait()
        if not self._keeps_data:
            shutil.rmtree(self.folder, ignore_errors=True)


def launch_all(down: Sequence[Broker]) -> None:
    """Start several at the same time; if one does not come up, end all of them and raise its error."""
    try:
        for broker in down:
            broker.launch()
        for broker in down:
            broker.wait_ready()
    except BaseException:
        for broker in down:
            broker.close()
        raise


def start_guard(folder: Path, *, keeps_data: bool) -> subprocess.Popen[bytes]:
    """A process that ends what belongs to *folder* when this one dies without doing so."""
    root = str(Path(servicebus.__file__).parent.parent)
    search_path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-m", "servicebus.testing.guard", str(os.getpid()), str(folder),
         "keep" if keeps_data else "remove"],
        env=os.environ | {"PYTHONPATH": search_path}, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
