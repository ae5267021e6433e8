"""A difference in a sentence that needs no knowledge of JSON Schema."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["ABSENT", "sentence"]

_LABELS = {
    "minimum": "smallest value",
    "maximum": "largest value",
    "multipleOf": "step",
    "minLength": "shortest length",
    "maxLength": "longest length",
    "minItems": "smallest number of items",
    "maxItems": "largest number of items",
    "minProperties": "smallest number of fields",
    "maxProperties": "largest number of fields",
    "pattern": "pattern",
    "default": "default",
    "patternProperties": "pattern of field names",
}
_MOST_VALUES = 6
ABSENT = ("absent", "ignored", "refused")
"""What ``presence`` says of a field that the writer does not send, or that the reader does not take."""
_OPTIONS = {
    "resumable": ("streams can go on at any item", "streams can no longer go on where they were"),
    "idempotent": ("calls whose worker died are run again", "calls whose worker died are no longer run again"),
    "lock": ("requests with the same lock now run one at a time", "requests no longer wait for a lock"),
    "concurrency": ("now runs one request at a time on the node", "no longer runs one request at a time on the node"),
}


def sentence(keyword: str, old: Any, new: Any, *, is_params: bool, why: str = "") -> str:
    """What has become of *keyword*; *why* it cannot be decided."""
    text = _plain(keyword, old, new, is_params)
    return f"{text} (not decidable: {why}; counts as breaking)" if why else text


def _plain(keyword: str, old: Any, new: Any, is_params: bool) -> str:
    if keyword == "presence":
        return _presence(old, new, is_params)
    if keyword == "type":
        return f"was {old}, is now {new}" if old != new else f"{old} has changed"
    if keyword == "enum":
        return _values(old, new)
    if keyword == "value":
        return f"no longer allows {_values_text(old)}" if new is None else f"now allows {_values_text(new)}"
    if keyword == "uniqueItems":
        return "items must differ now" if new else "items may repeat now"
    if keyword == "deprecated":
        return "is now deprecated" if new else "is no longer deprecated"
    if keyword == "propertyNames":
        return "the names of its fields are restricted otherwise"
    if keyword in _OPTIONS:
        return _OPTIONS[keyword][0 if new else 1]
    if keyword == "retry":
        return f"retries after failures: were {_shown(old, 'the default')}, are now {_shown(new, 'the default')}"
    if keyword not in _LABELS:
        return f"{keyword} has changed"
    return f"{_LABELS[keyword]}: was {_shown(old, 'none')}, is now {_shown(new, 'none')}"


def _presence(old: str, new: str, is_params: bool) -> str:
    if new in ABSENT:
        if not is_params:
            return "is no longer sent"
        return "removed; the node refuses it" if new == "refused" else "removed; the node ignores it"
    if old in ABSENT:
        if is_params:
            return f"new and {new}"
        return "new; callers refuse fields that they do not know" if old == "refused" else "new"
    if is_params:
        return f"was {old}, is now {new}"
    return "is now always sent" if new == "required" else "may be left out now"


def _values_text(values: list[Any]) -> str:
    """``"a", "b" or "c"``."""
    shown = [json.dumps(value, ensure_ascii=False) for value in values[:_MOST_VALUES]]
    if len(values) > _MOST_VALUES:
        return f"{', '.join(shown)} and {len(values) - _MOST_VALUES} more"
    return " or ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def _values(old: list[Any] | None, new: list[Any] | None) -> str:
    if old is None or new is None:
        before, after = ("any value" if each is None else _values_text(each) for each in (old, new))
        return f"was {before}, is now {after}"
    texts = [set(map(json.dumps, each)) for each in (old, new)]
    parts = []
    for word, values, others in (("removed", old, texts[1]), ("new", new, texts[0])):
        if changed := [value for value in values if json.dumps(value) not in others]:
            parts.append(f"{word}: {_values_text(changed)}")
    return "values " + "; ".join(parts)


def _shown(value: Any, absent: str) -> str:
    return absent if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
