"""The files that a configuration is read from: their texts, and the values of their YAML."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servicebus.configuration.section import Where
from servicebus.errors import ConfigurationError

__all__ = ["folder_of", "read_configuration_file", "read_text", "read_values"]

_MOST_BYTES = 16 * 1024 * 1024
"""A device such as /dev/zero has no end, and would take all memory."""


def read_values(path: str | os.PathLike[str], environment: Mapping[str, str]) -> tuple[Any, Where]:
    """What stands in a YAML file, unchecked. Raises ConfigurationError: it is no YAML, or cannot be read."""
    from servicebus.configuration.yaml_text import read_yaml

    text, folder = read_configuration_file(path), folder_of(path)
    return read_yaml(text, os.fspath(path), folder, environment, read_text, environment.get("HOME"))


def read_configuration_file(path: str | os.PathLike[str]) -> str:
    try:
        return read_text(os.fspath(path)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise ConfigurationError("the file is not UTF-8 text", path=os.fspath(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"cannot be read: {reason}", path=os.fspath(path)) from None


def folder_of(path: str | os.PathLike[str]) -> str:
    # Absolute: a daemon may change its current folder after it has read its configuration.
    return str(Path(path).absolute().parent)


def read_text(path: str) -> str:
    """Its text, with the line ends of Unix. Raises OSError, of a file without end too; ValueError: no UTF-8."""
    with Path(path).open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
