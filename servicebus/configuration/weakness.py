"""Secrets that do not protect."""

from __future__ import annotations

from collections.abc import Iterable

from servicebus.configuration.values import Secret

__all__ = ["PUBLIC_SECRET", "weak_secrets"]

PUBLIC_SECRET = "for trying out only"  # noqa: S105 - that is what it is about
"""What conf/ and the samples have in place of one."""
_STRONG_BYTES = 16
_MAKE_ONE = "make your own with `openssl rand -base64 32`"


def weak_secrets(key: str, secrets: Iterable[Secret]) -> tuple[str, ...]:
    """What is to be said of these secrets, once for each kind of weakness."""
    plain = [secret.reveal() for secret in secrets]
    found = []
    if PUBLIC_SECRET in plain:
        found.append(f"{key} is the one of the samples, which is public: {_MAKE_ONE}")
    if any(len(secret.encode()) < _STRONG_BYTES for secret in plain):
        found.append(f"{key} is shorter than {_STRONG_BYTES} bytes, and can be found by trying: {_MAKE_ONE}")
    return tuple(found)
