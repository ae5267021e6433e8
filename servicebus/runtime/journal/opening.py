"""Opening the journal that a configuration names."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.runtime.journal.blackbox import BlackBoxes
from servicebus.runtime.journal.files import parts_of
from servicebus.runtime.journal.interface import Damaged, Journal, JournalUnavailable
from servicebus.runtime.journal.ledger import Limits
from servicebus.runtime.journal.log import Log
from servicebus.runtime.journal.memory import MemoryJournal
from servicebus.runtime.journal.owners import OwnerLock
from servicebus.runtime.journal.replica import Replica
from servicebus.runtime.journal.shared import SharedJournal
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["MEMORY", "check_journal", "default_path", "journal_of", "open_journal", "open_shared", "shown_journal"]

MEMORY = "memory"
_SCHEMES = ("redis://", "rediss://", "unix://")
_MAGICS = (b"sbussnap", b"SQLite f")
"""Of a journal, and of one of a former format, of which more is said when it is read."""


def journal_of(config: Configuration) -> Journal:
    """The journal that *config* asks for, in the process that is going to use it. Raises JournalUnavailable."""
    limits = Limits(config.journal_max_entries, config.journal_max_answer_bytes, config.reply_keep)
    where = default_path(config.node_name, os.environ) if config.journal is None else config.journal.reveal()
    return open_journal(where, config.node_name, limits)


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
    elif where != MEMORY and Path(where).is_dir():
        problem = "is a folder; name a file in it"
    else:
        return
    raise ConfigurationError(f"journal {shown_journal(config)} {problem}", path=config.path, key="journal")


def shown_journal(config: Configuration) -> str:
    """Where the journal is, without its password."""
    if config.journal is None:
        return str(_state_folder(os.environ) / _file_name(config.node_name))
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


def default_path(node: str, environment: Mapping[str, str]) -> str:
    """Where the journal of *node* is kept if nobody says where; its folder is made, for this user alone.

    The folder is systemd's (``STATE_DIRECTORY``), /var/lib/servicebus for root, or one in the user's home.

    Raises:
        JournalUnavailable: there is no such place.
    """
    folder = _state_folder(environment)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"the folder cannot be made: {error.strerror}; say where with the key journal"
        raise JournalUnavailable(str(folder), reason) from error
    return str(folder / _file_name(node))


def _file_name(node: str) -> str:
    name = quote(node, safe="")
    if len(name) > _LONGEST_NAME:  # of a node that is not ASCII each character takes up to twelve
        name = f"{name[: _LONGEST_NAME - 33]}~{hashlib.sha256(node.encode()).hexdigest()[:32]}"
    return f"{name}.journal"


_LONGEST_NAME = 150
"""File names end at 255 bytes, and the files of a journal have names that are up to 50 longer."""


def _state_folder(environment: Mapping[str, str]) -> Path:
    by_systemd = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if by_systemd:
        return Path(by_systemd)
    if os.geteuid() == 0:
        return Path("/var/lib/servicebus")
    home = environment.get("HOME") or "/nonexistent"
    return Path(environment.get("XDG_STATE_HOME") or f"{home}/.local/state") / "servicebus"


def open_shared(path: str, limits: Limits | None = None, *, lock_wait_s: float = 1.0) -> SharedJournal:
    """This worker's door to the journal in the file *path*, which is made if it is not there; its folder is not.

    In the process that is going to use it: a journal does not survive a fork. A file that cannot be read is set aside
    (``PATH.broken-<time>``) and a new one begun, unless another worker has it open.

    Args:
        lock_wait_s: how long to wait while another worker writes, which takes microseconds unless it is frozen.

    Raises:
        JournalUnavailable: the journal cannot be used; the text says why.
    """
    # Its other files are beside the file itself, whatever link it was named by.
    file = Path(path).resolve()
    _check_place(Path(path), file)
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


def _check_place(named: Path, file: Path) -> None:
    """Refuse what another user has put there, and what is no journal, before anything is made or moved."""
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
        if start and start not in _MAGICS:
            raise JournalUnavailable(str(file), "is a file of something else, and is left alone; name a new path")
    except OSError as error:
        raise JournalUnavailable(str(file), f"cannot be opened: {error.strerror}") from error


def _open(file: Path, owners: OwnerLock, lock_wait_s: float, limits: Limits) -> SharedJournal:
    head = file.with_name(file.name + ".head")
    owners.use_second(head)
    log = Log(file, lock_wait_s, is_alone=not owners.anybody_alive())
    try:
        owners.use_second(head)  # it may be a new one
        replica = Replica(log, limits)
        # After a file was set aside the numbers start anew, and somebody may still have one of the old.
        while not owners.hold(replica.new_owner()):
            pass
        return SharedJournal(replica, owners, _boxes(file), limits)
    except BaseException:
        log.close()
        raise


def _set_aside(file: Path, owners: OwnerLock, damage: Damaged) -> None:
    if owners.anybody_alive():
        raise JournalUnavailable(str(file), f"{damage.reason}; begun anew when the last worker that uses it has ended")
    # Its numbers will be given out again.
    _boxes(file).remove_all()
    aside = f"{file.name}.broken-{int(time.time())}"
    LOG.error("%s; kept as %s, and a new one is begun: ids that it knew may be run again", damage, aside)
    for part in parts_of(file):
        file.with_name(file.name + part).rename(file.with_name(aside + part))


def _boxes(file: Path) -> BlackBoxes:
    return BlackBoxes(file.with_name(file.name + ".box-"))
