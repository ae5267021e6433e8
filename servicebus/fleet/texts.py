"""How the fleet is, in a few lines for people; and which names a filter means."""

from __future__ import annotations

from fnmatch import fnmatchcase

from servicebus.fleet.view import FleetView, PathState
from servicebus.wire.printable import counted, printable

__all__ = ["headline", "matches", "problem_lines", "uncounted_line"]

_MOST_NAMES = 5


def headline(view: FleetView) -> str:
    """Nodes and brokers in one line."""
    reachable = sum(not broker.problem for broker in view.brokers)
    whole = sum(node.is_whole for node in view.nodes.values())
    nodes = f"{whole} of {counted(len(view.nodes), 'node')} answer over all their brokers"
    return f"{reachable} of {counted(len(view.brokers), 'broker')} reachable, {nodes if view.nodes else 'no node'}"


def problem_lines(view: FleetView) -> list[str]:
    """What is wrong, a line each; escaped."""
    lines = [f"{broker.name}: {broker.problem}" for broker in view.brokers if broker.problem]
    for node in view.nodes.values():
        silent = [broker for broker, path in node.paths.items() if path.state is PathState.SILENT]
        lines += [f"{node.name}: no worker answers over {', '.join(silent)}"] if silent else []
        lines += [f"{node.name}: {problem}" for problem in node.problems]
    return list(map(printable, lines))


def uncounted_line(view: FleetView) -> str:
    """Which nodes count nothing by service, and what to do; "" if all do."""
    names = [node.name for node in view.nodes.values() if node.loads and all(each.ended is None for each in node.loads)]
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    shown = printable(", ".join(names[:_MOST_NAMES]))
    return f"no rates by service of {shown}{more}: 'metrics: {{}}' in the file of an agent has it count them"


def matches(query: str, name: str) -> bool:
    """Whether *name* has *query* in it, or fits it if that has wildcards; case does not matter."""
    query, name = query.lower(), name.lower()
    return fnmatchcase(name, query) if any(sign in query for sign in "*?[") else query in name
