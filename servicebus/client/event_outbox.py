"""The outbox of a worker: the events that its services have published, from their success until a broker has them.

Each worker has a file of its own: the first that no other process uses. What workers that have ended left in theirs is
taken over by the next one that starts.
"""

from __future__ import annotations

import time
from pathlib import Path

from servicebus.client.outbox_file import OutboxFile
from servicebus.errors import OutboxUnavailable
from servicebus.wire.events import EVENTS

__all__ = ["has_left", "open_event_outbox"]

_MOST_FILES = 10_000
_BATCH = 256


def open_event_outbox(base: str, max_messages: int, max_bytes: int) -> OutboxFile:
    """The first of the files ``<base>-<n>`` that is free, with what is in the other free ones.

    Raises:
        OutboxUnavailable: it cannot be opened.
    """
    for number in range(_MOST_FILES):
        try:
            own = OutboxFile(f"{base}-{number}", max_messages, max_bytes)
        except OutboxUnavailable as error:
            if "is in use" not in error.reason:
                raise
        else:
            break
    else:
        raise OutboxUnavailable(base, f"{_MOST_FILES} files are in use")
    for path in _files(base):
        if path != own.path:
            _take_over(own, path)
    return own


def has_left(base: str) -> bool:
    """Whether there are such files."""
    return bool(_files(base))


def _files(base: str) -> list[Path]:
    path = Path(base)
    return sorted(
        each for each in path.parent.glob(f"{path.name}-*") if each.name.removeprefix(f"{path.name}-").isdigit()
    )


def _take_over(own: OutboxFile, path: Path) -> None:
    """Move what is in *path* into *own*, unless another process uses it. Killed in between, it is in both: doubles."""
    try:
        other = OutboxFile(path, own.max_messages, own.max_bytes)
    except OutboxUnavailable:
        return
    try:
        while found := other.oldest(EVENTS, _BATCH):
            with own.transaction():
                if not all(own.add(EVENTS, each, int(time.time() * 1000)) for each in found):
                    return  # it is full: the next one takes the rest over
            with other.transaction():
                other.remove([each.seq for each in found])
    finally:
        other.close()
