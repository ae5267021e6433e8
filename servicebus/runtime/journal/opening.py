"""Opening the journal of one machine."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.ledger import Limits
from servicebus.runtime.journal.log import Damaged
from servicebus.runtime.journal.owners import OwnerLock
from servicebus.runtime.journal.shared import SharedJournal
from servicebus.runtime.journal.sqlite_log import SqliteLog

LOG = logging.getLogger(__name__)

__all__ = ["open_shared"]

_PARTS = ("", "-wal", "-shm")


def open_shared(path: str, limits: Limits | None = None, *, lock_wait_s: float = 1.0) -> SharedJournal:
    """This worker's door to the journal in the file *path*, which is made if it is not there; its folder is not.

    In the process that is going to use it: a journal does not survive a fork. A file that cannot be read is set aside
    (``PATH.broken-<time>``) and a new one begun, unless another worker has it open.

    Args:
        lock_wait_s: how long to wait while another worker writes, which takes microseconds unless it is frozen.

    Raises:
        JournalUnavailable: the journal cannot be used; the text says why.
    """
    file = Path(path).absolute()
    owners = OwnerLock(file.with_name(file.name + ".lock"))
    try:
        with owners:
            try:
                return _open(file, owners, lock_wait_s, limits or Limits())
            except Damaged as damage:
                _set_aside(file, owners, damage)
                return _open(file, owners, lock_wait_s, limits or Limits())
    except BaseException:
        owners.close()
        raise


def _open(file: Path, owners: OwnerLock, lock_wait_s: float, limits: Limits) -> SharedJournal:
    log = SqliteLog(file, lock_wait_s)
    try:
        # After a file was set aside the numbers start anew, and somebody may still have one of the old.
        while not owners.hold(log.new_owner()):
            pass
        return SharedJournal(log, owners, limits)
    except BaseException:
        log.close()
        raise


def _set_aside(file: Path, owners: OwnerLock, damage: Damaged) -> None:
    if owners.anybody_alive():
        raise JournalUnavailable(str(file), f"{damage.reason}; stop all workers of the node, then it is begun anew")
    aside = f"{file.name}.broken-{int(time.time())}"
    LOG.error("%s; kept as %s, and a new one is begun: ids that it knew may be run again", damage, aside)
    for part in _PARTS:
        found = file.with_name(file.name + part)
        if found.exists():
            found.rename(file.with_name(aside + part))
