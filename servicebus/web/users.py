"""The file of the console's users: a line ``name:role:hash`` for each. The hash is scrypt's, with a salt of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from servicebus.errors import ConfigurationError

__all__ = ["Role", "User", "hash_password", "is_password", "read_users", "set_user"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_COST = 2**14
_MOST_COST = 2**17
_SALT_BYTES = 16


class Role(str, Enum):
    """What a user may do."""

    VIEW = "view"
    """See everything, change nothing."""
    OPERATE = "operate"
    """Also call services, and send back, change and drop dead letters."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class User:
    """One line of the file."""

    name: str
    role: Role
    hash: str


def hash_password(password: str) -> str:
    """``scrypt$COST$SALT$KEY``, with a new salt each time."""
    salt = os.urandom(_SALT_BYTES)
    texts = (base64.b64encode(each).decode() for each in (salt, _derive(password, salt, _COST)))
    return "$".join(["scrypt", str(_COST), *texts])


def is_password(password: str, hash: str) -> bool:
    """Whether *hash* is of *password*. Takes some 50 ms of CPU, whatever the answer is."""
    _, cost, salt, key = hash.split("$")
    found = _derive(password, base64.b64decode(salt), int(cost))
    return hmac.compare_digest(found, base64.b64decode(key))


def _derive(password: str, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=8, p=1, maxmem=256 * cost * 8)


def read_users(path: Path) -> Mapping[str, User]:
    """The users by their names.

    Raises:
        ConfigurationError: the file cannot be read, other users of this machine can, or a line is none.
    """
    try:
        mode = path.stat().st_mode
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"the users of the console cannot be read: {reason}", path=str(path)) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError("others can read the users of the console: chmod 600 it", path=str(path))
    found: dict[str, User] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user = _read(line)
        if user is None or user.name in found:
            problem = (
                "no line NAME:ROLE:HASH, as --set-user writes it" if user is None else "a user that is there twice"
            )
            raise ConfigurationError(problem, path=str(path), line=number)
        found[user.name] = user
    if not found:
        raise ConfigurationError("no user is in it: add one with --set-user NAME:ROLE", path=str(path))
    return found


def _read(line: str) -> User | None:
    try:
        name, role, hash = line.strip().split(":")
        kind, cost, salt, key = hash.split("$")
        is_hash = kind == "scrypt" and 1 < int(cost) <= _MOST_COST and base64.b64decode(salt) and base64.b64decode(key)
        return User(name, Role(role), hash) if is_hash and _NAME.fullmatch(name) else None
    except ValueError:
        return None


def set_user(path: Path, name: str, role: Role, password: str) -> None:
    """Add or change the line of one user; the file is made for its owner alone.

    Raises:
        ValueError: it is no name for a user.
        OSError: the file cannot be written.
        ConfigurationError: what is there cannot be read.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a user: letters, digits and . _ @ - only")
    users = dict(read_users(path)) if path.exists() and path.stat().st_size else {}
    users[name] = User(name, role, hash_password(password))
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{each.name}:{each.role}:{each.hash}\n" for each in users.values())
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
