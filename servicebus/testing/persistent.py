"""Private brokers that outlive the command that started them: the commands of ``servicebus broker``.

Which they are stands in a file in a folder that only this user can enter; everything else is read from their processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servicebus.errors import ServiceBusError
from servicebus.testing.node import Broker
from servicebus.testing.pool import launch_all
from servicebus.wire.printable import describe

__all__ = ["PersistentBrokers", "runtime_folder"]

_FIRST_PORT = 5701


def runtime_folder() -> Path:
    """``$XDG_RUNTIME_DIR/servicebus``, or ``/tmp/servicebus-<uid>``: this user's own, made if it is not there.

    Raises:
        ServiceBusError: it cannot be made, or another user owns a folder of that name, or may write into it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base) / "servicebus" if base else Path(tempfile.gettempdir()) / f"servicebus-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceBusError(f"{folder} cannot be made: {error.strerror}; set XDG_RUNTIME_DIR to another") from error
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ServiceBusError(
            f"{folder} belongs to another user or is open to others; remove it, or set XDG_RUNTIME_DIR"
        )
    return folder


class PersistentBrokers:
    """This user's persistent brokers. One process at a time changes them: each method waits for its turn."""

    def __init__(self, runtime: Path | None = None):
        self._runtime = runtime or runtime_folder()
        self._file = self._runtime / "brokers.json"

    def up(self, count: int, folder: Path | None = None) -> list[Broker]:
        """Have *count* brokers running: those that are down are started, those that run stay as they are.

        Args:
            folder: where their data lie, if none are up yet. Such data stay when they go down.

        Raises:
            ServiceBusError: they are up in another folder.
            BrokerProgramMissing: RabbitMQ is not installed.
            BrokerStartFailed: one did not come up; none that was started now is left running.
            ValueError: *count* is not 1 to 26.
        """
        if not 1 <= count <= len(string.ascii_lowercase):
            raise ValueError(f"count is {count}, not 1 to {len(string.ascii_lowercase)}")
        with self._alone():
            known, home = self._read()
            wanted = (folder or home or self._runtime / "brokers").absolute()
            if home is not None and home != wanted:
                raise ServiceBusError(f"brokers are up in {home}: end them first (servicebus broker down)")
            names = string.ascii_lowercase[: max(count, len(known))]
            # The same ports each time where they are free, so that programs and documents can name them.
            brokers = [Broker(wanted / name, name, wanted_port=port) for port, name in enumerate(names, _FIRST_PORT)]
            launch_all([broker for broker in brokers if not broker.is_running])
            for broker in brokers:
                broker.detach()
            self._file.write_text(json.dumps({"folder": str(wanted), "names": list(names)}))
            return brokers

    def known(self) -> list[Broker]:
        """The brokers that `up` has started, whatever became of them; empty if none."""
        names, folder = self._read()
        return [Broker(folder / name, name) for name in names] if folder else []

    def down(self) -> list[Broker]:
        """Stop them cleanly and forget them; what lay in a folder of the user's choice stays there."""
        with self._alone():
            brokers = self.known()
            for broker in brokers:
                broker.stop()
            _, folder = self._read()
            if folder == (self._runtime / "brokers").absolute():
                shutil.rmtree(folder, ignore_errors=True)
            self._file.unlink(missing_ok=True)
            return brokers

    def _read(self) -> tuple[str, Path | None]:
        try:
            known = json.loads(self._file.read_text())
            return "".join(known["names"]), Path(known["folder"])
        except FileNotFoundError:
            return "", None
        except (OSError, ValueError, LookupError, TypeError) as error:
            what = f"{self._file}, which says what brokers there are, cannot be read: {describe(error)}"
            raise ServiceBusError(f"{what}; remove it, and end brokers that it named by hand") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # Never inherited: the brokers would hold the lock for as long as they live.
        try:
            lock = (self._runtime / "lock").open("w")
        except OSError as error:
            raise ServiceBusError(f"{self._runtime} cannot be written: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
