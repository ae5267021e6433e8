"""Where the journal of a node is kept if the configuration does not say it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from servicebus.configuration import Configuration
from servicebus.errors import JournalUnavailable

__all__ = ["MEMORY", "beside_journal", "default_path", "shown_path"]

MEMORY = "memory"
"""The key ``journal`` of a node that keeps nothing on disk."""

_LONGEST_NAME = 150
"""File names end at 255 bytes, and the files of a journal have names that are up to 50 longer."""


def default_path(node: str, environment: Mapping[str, str]) -> str:
    """The path of the journal of *node*; its folder is made, for this user alone.

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


def beside_journal(config: Configuration, suffix: str) -> Path:
    """The path of another file of the node: beside its journal or, where that is no file, beside where it would be.

    Raises:
        JournalUnavailable: there is no such place.
    """
    journal = MEMORY if config.journal is None else config.journal.reveal()
    if journal == MEMORY or "://" in journal:
        journal = default_path(config.node_name, os.environ)
    return Path(f"{journal}.{suffix}")


def shown_path(node: str, environment: Mapping[str, str]) -> str:
    """The same, without making anything."""
    return str(_state_folder(environment) / _file_name(node))


def _file_name(node: str) -> str:
    name = quote(node, safe="")
    if len(name) > _LONGEST_NAME:  # of a node that is not ASCII each character takes up to twelve
        name = f"{name[: _LONGEST_NAME - 33]}~{hashlib.sha256(node.encode()).hexdigest()[:32]}"
    return f"{name}.journal"


def _state_folder(environment: Mapping[str, str]) -> Path:
    by_systemd = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if by_systemd:
        return Path(by_systemd)
    if os.geteuid() == 0:
        return Path("/var/lib/servicebus")
    home = environment.get("HOME") or "/nonexistent"
    return Path(environment.get("XDG_STATE_HOME") or f"{home}/.local/state") / "servicebus"
