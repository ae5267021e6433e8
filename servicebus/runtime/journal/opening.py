"""Opening the journal that a configuration names."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.protocol.plain import PLAIN_COUNT
from servicebus.runtime.byte_locks import TO_THE_END, LockFile, LockFiles
from servicebus.runtime.journal.files import parts_of
from servicebus.runtime.journal.inflight import InFlightFiles
from servicebus.runtime.journal.interface import Damaged, Journal, JournalUnavailable, Limits, refused
from servicebus.runtime.journal.log import Log, Replica
from servicebus.runtime.journal.memory import MemoryJournal
from servicebus.runtime.journal.pair import JournalPair
from servicebus.runtime.journal.shared import SharedJournal
from servicebus.runtime.journal.snapshot import MAGICS
from servicebus.runtime.state_folder import MEMORY, default_path, shown_path
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["MEMORY", "check_journal", "journal_of", "open_journal", "open_shared", "shown_journal"]

_SCHEMES = ("redis://", "rediss://", "unix://")
_OPENING = 0
"""The byte of the lock file that the process holds that opens or replaces the journal; no worker has this number."""
_OPENING_WAIT_S = 45.0
_POLL_S = 0.01


def journal_of(config: Configuration, *, with_plain: bool = False) -> Journal:
    """The journal that *config* asks for, in the process that is going to use it. Raises JournalUnavailable.

    Args:
        with_plain: what other programs publish is remembered beside it, as much again and no more: they must not have
            the node forget what is signed.
    """
    limits = Limits(config.journal_max_entries, config.journal_max_answer_bytes, config.reply_keep)
    where = default_path(config.node_name, os.environ) if config.journal is None else config.journal.reveal()
    journal = open_journal(where, config.node_name, limits)
    if not with_plain:
        return journal
    try:
        is_path = where != MEMORY and "://" not in where
        beside = open_journal(f"{where}.plain" if is_path else where, f"{config.node_name} plain", limits)
    except BaseException:
        journal.close()
        raise
    return JournalPair(journal, beside, lambda id: id.endswith(f"-{PLAIN_COUNT}"))


def check_journal(config: Configuration) -> None:
    """Raise ConfigurationError if the journal can never be opened, however long one waits. Before a fork."""
    where = MEMORY if config.journal is None else config.journal.reveal()
    if "://" in where:
        if not where.startswith(_SCHEMES):
            problem = f"begins with none of {', '.join(_SCHEMES)}; a file is written as its path alone"
        elif find_spec("redis") is None:
            problem = "needs pip install servicebus-failover[redis]"
        else:
            return
    elif where == MEMORY or not (problem := _never_a_file(Path(where))):
        return
    raise ConfigurationError(f"journal {shown_journal(config)} {problem}", path=config.path, key="journal")


def _never_a_file(path: Path) -> str:
    """Why there is no regular file at *path* and none can be made; empty if there may be one, now or later."""
    with suppress(OSError):  # what may not be looked at is said when it is opened
        if path.is_dir():
            return "is a folder; name a file in it"
        if path.exists() and not path.is_file():
            return "is no regular file; name a new path"
        for above in path.absolute().parents:
            if above.exists() and not above.is_dir():
                return f"is inside {above}, which is no folder; name a path in a folder"
    return ""


def shown_journal(config: Configuration) -> str:
    """Where the journal is, without its password."""
    if config.journal is None:
        return shown_path(config.node_name, os.environ)
    where = config.journal.reveal()
    scheme, mark, rest = where.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2].partition('?')[0]}" if mark else where


def open_journal(where: str, node: str, limits: Limits | None = None) -> Journal:
    """This worker's door to the journal of *node*, in the process that is going to use it.

    Args:
        where: ``memory`` (of this worker alone), the URL of a Redis server, or the path of a file.

    Raises:
        JournalUnavailable: it cannot be used; the text says why.
    """
    limits = limits or Limits()
    if where == MEMORY:
        return MemoryJournal(limits)
    if "://" in where:
        from servicebus.runtime.journal.redis_journal import open_redis

        return open_redis(where, node, limits)
    return open_shared(where, limits)


def open_shared(path: str, limits: Limits | None = None, *, lock_wait_s: float = 1.0) -> SharedJournal:
    """This worker's door to the journal in the file *path*, which is made if it is not there; its folder is not.

    In the process that is going to use it: a journal does not survive a fork. A file that cannot be read is set aside
    (``PATH.broken-<time>``) and replaced by a new one, unless another worker has it open.

    Args:
        lock_wait_s: how long to wait while another worker writes, which takes microseconds unless it is frozen.

    Raises:
        JournalUnavailable: the journal cannot be used; the text says why.
    """
    # Its other files are beside the file itself, whatever link it was named by.
    file = Path(path).resolve()
    _check_place(Path(path), file)
    limits = limits or Limits()
    lock_path = file.with_name(file.name + ".lock")
    lock = _opened(lock_path)
    locks = LockFiles([lock])
    try:
        _wait_for_lock(lock, lock_path)
        try:
            return _open(file, locks, lock_wait_s, limits)
        except Damaged as damage:
            _replace(file, locks, damage)
            return _open(file, locks, lock_wait_s, limits)
        finally:
            lock.unlock(_OPENING)
    except BaseException:
        locks.close()
        raise


def _wait_for_lock(lock: LockFile, path: Path) -> None:
    deadline = time.monotonic() + _OPENING_WAIT_S
    while not lock.try_lock(_OPENING):
        if time.monotonic() >= deadline:
            text = f"another process has been opening it for {_OPENING_WAIT_S:g} s"
            raise JournalUnavailable(str(path), text)
        time.sleep(_POLL_S)


def _check_place(named: Path, file: Path) -> None:
    """Refuse what belongs to another user, and what is no journal, before anything is made or moved."""
    ours = (0, os.geteuid())
    try:
        if named.is_symlink() and named.lstat().st_uid not in ours:
            raise JournalUnavailable(str(named), "is a link that another user has made; name the file itself")
        if file.parent.stat().st_uid not in ours:
            raise JournalUnavailable(
                str(file), "its folder belongs to another user; name a path in a folder of our own"
            )
        if not file.exists():
            return
        if not file.is_file():
            raise JournalUnavailable(str(file), "is no regular file; name a new path")
        if file.stat().st_uid not in ours:
            raise JournalUnavailable(str(file), "belongs to another user; name a new path")
        if file.with_name(file.name + ".head").exists():
            return  # a journal, or one that has been damaged
        with file.open("rb") as opened:
            start = opened.read(8)
        if start and start not in MAGICS:
            raise JournalUnavailable(str(file), "is a file of something else, and is left alone; name a new path")
    except OSError as error:
        raise JournalUnavailable(str(file), f"cannot be opened: {error.strerror}") from error


def _open(file: Path, locks: LockFiles, lock_wait_s: float, limits: Limits) -> SharedJournal:
    head = file.with_name(file.name + ".head")
    _lock_too(locks, head)
    log = Log(file, lock_wait_s, is_alone=not _is_in_use(locks))
    try:
        _lock_too(locks, head)  # it may be a new one
        replica = Replica(log, limits)
        number = replica.new_owner()
        # After a file was set aside the numbers start again, and a live worker may still have one of the old.
        while not locks.try_lock(number):
            number = replica.new_owner()
        return SharedJournal(replica, locks, number, _in_flight_files(file))
    except BaseException:
        log.close()
        raise


def _replace(file: Path, locks: LockFiles, damage: Damaged) -> None:
    if _is_in_use(locks):
        raise JournalUnavailable(str(file), f"{damage.reason}; replaced when the last worker that uses it has ended")
    # Its numbers will be given out again.
    _in_flight_files(file).remove_all()
    aside = f"{file.name}.broken-{int(time.time())}"
    LOG.error("%s; kept as %s, and a new one is begun: ids that it knew may be run again", damage, aside)
    for part in parts_of(file):
        file.with_name(file.name + part).rename(file.with_name(aside + part))


def _lock_too(locks: LockFiles, head: Path) -> None:
    """A lock file that looks left behind may be removed; the journal cannot be opened without its head."""
    for former in locks.files[1:]:
        former.close()
    locks.files[1:] = [_opened(head)] if head.exists() else []


def _opened(path: Path) -> LockFile:
    try:
        return LockFile(path)
    except OSError as error:
        raise refused(path, f"cannot be opened: {error.strerror}") from error


def _is_in_use(locks: LockFiles) -> bool:
    """Does any other worker live?"""
    return locks.is_locked(_OPENING + 1, TO_THE_END)


def _in_flight_files(file: Path) -> InFlightFiles:
    return InFlightFiles(file.with_name(file.name + ".box-"))
