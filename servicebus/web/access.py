"""Who may do what in the console: all users of this machine, those with a password, or those that a proxy names."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from servicebus.web.users import Role, User, hash_password, is_password

__all__ = ["LOOPBACK", "Access", "OpenAccess", "PasswordAccess", "ProxyAccess", "TooManyAttempts", "Visitor"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SESSION_S = 8 * 3600.0
IDLE_S = 3600.0
_MOST_SESSIONS = 1000
_ATTEMPTS = 5
_ATTEMPTS_S = 60.0
_MOST_TRIED = 1000


class Visitor(NamedTuple):
    """Whoever a request comes from."""

    name: str
    """"" for everyone on this machine."""
    role: Role


class TooManyAttempts(Exception):
    """Raised when too many wrong passwords were given for one name within a minute."""


class Access:
    """Base. For any thread."""

    has_login = False
    """Whether there is a page for names and passwords."""
    knows_users = True
    """Whether it tells users apart."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def accepts_host(self, host: str) -> bool:
        """Whether a request may name *host* as the console's; a name of a stranger that leads here is refused."""
        return True

    def visitor(self, session: str, headers: Mapping[str, str], address: str) -> Visitor | None:
        """Whoever it is; None: nobody who may see anything.

        Args:
            session: of the cookie, which anybody may have written.
            address: where the connection comes from.
        """
        raise NotImplementedError

    def form_token(self, session: str, name: str) -> str:
        """What a form must bring back, so that no page of another site can send it."""
        return hmac.new(self._key, f"{session}\n{name}".encode(), hashlib.sha256).hexdigest()


class OpenAccess(Access):
    """Everyone on this machine, with one role."""

    knows_users = False

    def __init__(self, role: Role):
        super().__init__()
        self._visitor = Visitor("", role)

    def accepts_host(self, host: str) -> bool:
        """Only names of this machine: a page whose own name was made to lead here is another site (DNS rebinding)."""
        return host in LOOPBACK

    def visitor(self, session: str, headers: Mapping[str, str], address: str) -> Visitor | None:
        return self._visitor


class ProxyAccess(Access):
    """A reverse proxy has checked who it is, and says so in a header.

    Args:
        header: its name, in lower case.
        addresses: of the proxies; from others the header counts for nothing.
        operators: names of those who may operate.
    """

    def __init__(self, header: str, addresses: Collection[str], operators: Collection[str]):
        super().__init__()
        self._header = header
        self._addresses = frozenset(addresses)
        self._operators = frozenset(operators)

    def visitor(self, session: str, headers: Mapping[str, str], address: str) -> Visitor | None:
        name = headers.get(self._header, "") if address in self._addresses else ""
        return Visitor(name, Role.OPERATE if name in self._operators else Role.VIEW) if name else None


@dataclass(slots=True)
class _OpenSession:
    user: User
    ends_at: float
    idle_at: float


class PasswordAccess(Access):
    """Users with passwords. Sessions live in this process, and end with it.

    Args:
        users: of the file, by their names.
    """

    has_login = True

    def __init__(self, users: Mapping[str, User]):
        super().__init__()
        self._users = users
        self._sessions: dict[str, _OpenSession] = {}
        self._tried: dict[tuple[str, str], list[float]] = {}
        self._nobody = hash_password(secrets.token_hex())  # so that an unknown name takes as long as a wrong password
        self._lock = threading.Lock()
        self._checking = threading.Lock()  # one at a time: each costs CPU and memory

    def visitor(self, session: str, headers: Mapping[str, str], address: str) -> Visitor | None:
        now = time.monotonic()
        with self._lock:
            found = self._sessions.get(session)
            if found is None or now >= min(found.ends_at, found.idle_at):
                self._sessions.pop(session, None)
                return None
            found.idle_at = now + IDLE_S
            return Visitor(found.user.name, found.user.role)

    def log_in(self, name: str, password: str, address: str) -> str | None:
        """The new session; None: they do not fit. Raises TooManyAttempts, for each name and address by itself."""
        user, now = self._users.get(name), time.monotonic()
        tried = (name if user is not None else "", address)  # names that are none share one count
        with self._lock:
            recent = {at: [each for each in times if each > now - _ATTEMPTS_S] for at, times in self._tried.items()}
            self._tried = {at: times for at, times in recent.items() if times}
            if len(self._tried.get(tried, ())) >= _ATTEMPTS or len(self._tried) > _MOST_TRIED:
                raise TooManyAttempts
            self._tried.setdefault(tried, []).append(now)  # before it is known, or many at once would all pass
        with self._checking:
            is_right = is_password(password, user.hash if user is not None else self._nobody)
        if user is None or not is_right:
            return None
        session = secrets.token_urlsafe(32)
        with self._lock:
            self._tried.pop(tried, None)
            while len(self._sessions) >= _MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[session] = _OpenSession(user, now + SESSION_S, now + IDLE_S)
        return session

    def log_out(self, session: str) -> None:
        """End it, if there is one."""
        with self._lock:
            self._sessions.pop(session, None)
