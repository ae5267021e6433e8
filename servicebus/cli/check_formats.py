"""How ``servicebus check`` says what it has found: to Nagios, as JSON, for Prometheus' node_exporter, for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from servicebus.observability.measures import AGENT_MEASURES, BROKER_MEASURES
from servicebus.observability.thresholds import Measured, Range, Ranges, Severity
from servicebus.wire.printable import printable

__all__ = ["FORMATS", "PluginResult"]

_PREFIX = "servicebus_check"


class PluginResult(NamedTuple):
    """What was measured, and what it comes to."""

    node: str
    measured: Sequence[Measured]
    limits: Mapping[str, Ranges]
    severity: Severity
    failed: Sequence[str]
    """Why something could not be measured."""

    def alerts(self) -> list[tuple[Severity, Measured]]:
        """What is not well, the worst first."""
        found = [(each.severity(self.limits), each) for each in self.measured]
        return sorted((each for each in found if each[0]), key=lambda each: -each[0])


def _as_nagios(result: PluginResult) -> str:
    said = [*result.failed, *(_sentence(each, result.limits) for _, each in result.alerts())]
    summary = "; ".join(said) or _summary(result)
    head = f"SERVICEBUS {result.severity.name} - {f'{result.node}: ' if result.node else ''}{summary}"
    values = " ".join(_performance(each, result.limits) for each in result.measured)
    return f"{_no_pipe(head)} | {printable(values)}" if values else _no_pipe(head)


def _sentence(each: Measured, limits: Mapping[str, Ranges]) -> str:
    why = f" ({each.why})" if each.why else ""
    return f"{each.label} is {_number(each.value)}{_wanted(each, limits)}{why}"


def _wanted(each: Measured, limits: Mapping[str, Ranges]) -> str:
    found = limits.get(each.name, Ranges())
    broken = found.critical if found.critical is not None and not found.critical.holds(each.value) else found.warn
    return f", wanted {broken.text}" if broken is not None else ""


def _summary(result: PluginResult) -> str:
    shown = ("brokers_ready", "consumers_of_all", "inbox", "messages", "dead_letters")
    return ", ".join(f"{each.name} {_number(each.value)}" for each in result.measured if each.name in shown)


def _performance(each: Measured, limits: Mapping[str, Ranges]) -> str:
    found = limits.get(each.name, Ranges())
    label = each.label.replace("'", "").replace("=", "")
    parts = [f"{_number(each.value)}{each.unit}", _text(found.warn), _text(found.critical), "0"]
    return f"'{label}'={';'.join(parts)}"


def _as_json(result: PluginResult) -> str:
    document = {
        "status": result.severity.name,
        "exit_code": int(result.severity),
        "node": result.node,
        "failed": list(result.failed),
        "measures": [
            {
                "name": each.name,
                "broker": each.broker or None,
                "value": each.value,
                "unit": each.unit,
                "status": each.severity(result.limits).name,
                "warn": _text(result.limits.get(each.name, Ranges()).warn),
                "critical": _text(result.limits.get(each.name, Ranges()).critical),
                "why": each.why,
            }
            for each in result.measured
        ],
    }
    return json.dumps(document)


def _as_prometheus(result: PluginResult) -> str:
    """For the textfile collector."""
    node = {"node": result.node}
    lines = [*_head("status", "0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."), _sample("status", node, result.severity)]
    names = dict.fromkeys(each.name for each in result.measured)
    for name in names:
        lines += _head(name, {**AGENT_MEASURES, **BROKER_MEASURES}[name].help)
        for each in result.measured:
            if each.name == name:
                lines.append(_sample(name, {**node, **({"broker": each.broker} if each.broker else {})}, each.value))
    return "\n".join(lines)


def _head(name: str, text: str) -> list[str]:
    return [f"# HELP {_PREFIX}_{name} {text}", f"# TYPE {_PREFIX}_{name} gauge"]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f"{label}={json.dumps(printable(text), ensure_ascii=False)}" for label, text in labels.items())
    return f"{_PREFIX}_{name}{{{shown}}} {_number(value)}"


def _as_text(result: PluginResult) -> str:
    lines = [f"{result.node or 'the agent'}: {result.severity.name}", *result.failed]
    for each in result.measured:
        severity, limits = each.severity(result.limits), result.limits.get(each.name, Ranges())
        pairs = ("warn", limits.warn), ("critical", limits.critical)
        ranges = ", ".join(f"{word} {_text(one)}" for word, one in pairs if one is not None)
        line = f"{severity.name:8} {each.label} {_number(each.value)}{each.unit}"
        line += f"  ({ranges})" if ranges else ""
        lines.append(f"{line}  {each.why}" if severity and each.why else line)
    return "\n".join(map(printable, lines))


def _text(found: Range | None) -> str:
    return "" if found is None else found.text


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e5 and value != int(value) else str(int(value))


def _no_pipe(text: str) -> str:
    return printable(text.replace("|", "/"))


FORMATS: Mapping[str, Callable[[PluginResult], str]] = {
    "nagios": _as_nagios,
    "json": _as_json,
    "prometheus": _as_prometheus,
    "text": _as_text,
}
