"""Fate: what a request knows of what becomes of it."""

from __future__ import annotations

from typing import Protocol

from servicebus._plain import PlainMessage

__all__ = ["Fate"]


class Fate(Protocol):
    """What the agent knows of a request while it runs."""

    @property
    def attempts(self) -> int: ...
    @property
    def event(self) -> str: ...
    @property
    def plain(self) -> PlainMessage | None: ...
    @property
    def position(self) -> int: ...
    @property
    def caller(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def is_cancelled(self) -> bool: ...
    @property
    def fence(self) -> int | None: ...
