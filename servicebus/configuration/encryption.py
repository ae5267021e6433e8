"""The section ``encryption:``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from servicebus.configuration import checks
from servicebus.configuration.callers import addresses, events
from servicebus.configuration.section import Section
from servicebus.configuration.values import EncryptionSettings, Secret

__all__ = ["ENCRYPTION_KEYS", "read_encryption"]

ENCRYPTION_KEYS = ("keys", "services", "events", "required", "compress")


def read_encryption(section: Section, signing: tuple[Secret, ...]) -> EncryptionSettings | None:
    """The mapping ``encryption:``; None without it. *signing* are the secrets that sign: none of them encrypts."""
    given = section.section("encryption", ENCRYPTION_KEYS)
    if given is None:
        return None
    keys = given.require("keys", checks.secrets)
    if set(keys) & set(signing):
        # Who may sign is not always who may read, and a secret that signs is given to more programs.
        at = (*given.at, "keys")
        given.where.fail(at, "encryption.keys holds a secret that signs; make another one: `openssl rand -base64 32`")
    return EncryptionSettings(
        keys,
        given.take("services", addresses, ("*",)),
        given.take("events", events, ("#",)),
        given.take("required", checks.flag, True),
        given.take("compress", _compression, ""),
    )


_either: Callable[[Any], Literal["zlib", "zstd"]] = checks.one_of("zlib", "zstd")


def _compression(value: Any) -> Literal["", "zlib", "zstd"]:
    return "" if value is False or str(value).lower() in ("false", "no", "none") else _either(value)
