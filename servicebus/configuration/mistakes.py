"""What else is wrong with a file whose reading ended at the first mistake."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from typing import Any

from servicebus.configuration.files import read_values
from servicebus.configuration.keys import ALL_KEYS, FORMER_KEYS
from servicebus.configuration.section import MissingKey
from servicebus.configuration.settings import Configuration
from servicebus.errors import ConfigurationError

__all__ = ["further_mistakes"]

_MOST = 50
_PLACEHOLDERS: Mapping[str, Any] = {"hosts": ["localhost"], "secret_token": "in place of one that cannot be used"}
"""Of what a file must have."""
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def further_mistakes(path: str, first: ConfigurationError) -> list[ConfigurationError]:
    """Those behind *first*, in the order in which they are found: what is wrong is left out, and the rest read again.

    What depends on a value that was left out is not said. Empty if *first* is of the text and not of a value.
    """
    try:
        values, where = read_values(path, os.environ)
    except ConfigurationError:
        return []
    values, error, found = copy.deepcopy(values), first, list[ConfigurationError]()
    thinned: set[tuple[int | str, ...]] = set()
    """Mappings of which something was left out: what they lack now, the file does not lack."""
    while len(found) < _MOST and isinstance(values, dict) and _leave_out(values, error):
        steps = _steps_to(error)
        thinned |= {tuple(steps[:-1])} if len(steps) > 1 else set()
        before = str(error)
        try:
            Configuration.__new__(Configuration)._fill(values, where)
            break
        except ConfigurationError as further:
            error = further
        if str(error) == before:
            break
        steps = _steps_to(error)
        if tuple(steps) not in thinned and not (isinstance(error, MissingKey) and tuple(steps[:-1]) in thinned):
            found.append(error)
    return found


def _steps_to(error: ConfigurationError) -> list[int | str]:
    """The place that *error* names."""
    return [int(index) if index else name for index, name in _STEP.findall(error.key or "")]


def _leave_out(values: dict[Any, Any], error: ConfigurationError) -> bool:
    """Whether what *error* is about could be taken out of *values*, or put into them where it is missing."""
    steps = _steps_to(error)
    if not steps:  # unknown keys are not named: they may be part of a secret
        unknown = [key for key in values if key not in ALL_KEYS and key not in FORMER_KEYS]
        for key in unknown:
            del values[key]
        return bool(unknown)
    if isinstance(error, MissingKey):
        if len(steps) > 1 or steps[0] not in _PLACEHOLDERS:
            return _remove(values, steps[:-1])
        values[steps[0]] = copy.deepcopy(_PLACEHOLDERS[str(steps[0])])
        return True
    return _remove(values, steps)


def _remove(values: dict[Any, Any], steps: list[int | str]) -> bool:
    """Take out what stands at *steps*; of a list, whose other items keep their numbers, the whole list."""
    while steps:
        *before, last = steps
        within: Any = values
        for step in before:
            try:
                within = within[step]
            except (LookupError, TypeError):
                return False
        if isinstance(within, dict):
            if last not in within:
                return False
            if not before and last in _PLACEHOLDERS:
                within[last] = copy.deepcopy(_PLACEHOLDERS[str(last)])
            else:
                del within[last]
            return True
        steps = before
    return False
