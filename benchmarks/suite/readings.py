"""Reading documents of visits: what a peer's phase gave, over the rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.suite.spread import Spread, cell, number

Found = Mapping[str, Any]
Reader = Callable[[Found], "float | None"]


def names(document: Found) -> list[str]:
    """Of those that had measurements, in their order."""
    return list(dict.fromkeys(result["name"] for result in document["results"]))


def over_rounds(document: Found, name: str, read: Reader) -> Spread | None:
    """What *read* finds in the visits of one peer."""
    return Spread.of(read(result) for result in document["results"] if result["name"] == name)


def by_round(document: Found, name: str, read: Reader) -> dict[int, float]:
    """The same, by the number of the round."""
    found = {result["round"]: read(result) for result in document["results"] if result["name"] == name}
    return {number: value for number, value in found.items() if value is not None}


def field(phase: str, key: str = "rate") -> Reader:
    """Reads one number of a phase."""
    return lambda result: result.get("phases", {}).get(phase, {}).get(key)


def rates(document: Found, phase: str) -> dict[str, Spread | None]:
    """Of every peer, per second."""
    return {name: over_rounds(document, name, field(phase)) for name in names(document)}


def cpu_us(phase: str, who: str) -> Reader:
    """Reads what one call or message of a phase costs the client, the server or the broker, in microseconds."""

    def read(result: Found) -> float | None:
        measured = result.get("phases", {}).get(phase)
        return measured["cpu_s"][who] / measured["count"] * 1e6 if measured and measured["count"] else None

    return read


def phase_cell(document: Found, name: str, phase: str) -> str:
    """The rate of a phase, for a table; tells calls that never came back, and when there is none because it failed."""
    spread = over_rounds(document, name, field(phase))
    visits = [result for result in document["results"] if result["name"] == name]
    stuck = max((result.get("phases", {}).get(phase, {}).get("stuck", 0) for result in visits), default=0)
    failed = any(phase in result.get("failed", {}) or "error" in result for result in visits)
    if spread is None:
        return "failed" if failed else cell(None)
    return cell(spread) + (f", {stuck} stuck" if stuck else "") + (", failed once" if failed else "")


def failures(document: Found) -> list[str]:
    """Lines on what did not work, each once."""
    lines = [f"{name} was left out: {reason}" for name, reason in document.get("left_out", {}).items()]
    for result in document["results"]:
        if "error" in result:
            lines.append(f"{result['name']} failed: {_short(result['error'])}")
        lines += [
            f"{result['name']}, {phase}, failed: {_short(why)}" for phase, why in result.get("failed", {}).items()
        ]
    return list(dict.fromkeys(lines))


def noise(document: Found) -> str:
    """One line on what else the machine did."""
    found = Spread.of(_noises(document["results"]))
    if found is None:
        return "Nothing was measured."
    return f"Other processes used {number(found.median)} cores in the median phase, {number(found.high)} in the worst."


def _noises(results: Iterable[Found]) -> Iterable[float]:
    return (phase["noise_cores"] for result in results for phase in result.get("phases", {}).values())


def _short(text: str) -> str:
    return " ".join(text.split())[-200:]
