"""The dashboard and the alert rules of conf/, and docs/metrics, name metrics and labels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from servicebus.observability.collector import AgentCollector
from servicebus.observability.families import AGENT, CLIENT, PREFIX, exposed
from servicebus.observability.health import document_of

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "conf" / "grafana.json").read_text())
ALERTS = yaml.safe_load((ROOT / "conf" / "alerts.yaml").read_text())
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "histogram": ("_bucket", "_count", "_sum")}
OF_PROMETHEUS = {"le", "instance", "job"}

EXPRESSION = re.compile(r"(servicebus_\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


def sample_names() -> dict[str, set[str]]:
    """Of each sample that can be scraped, its labels."""
    return {
        f"{PREFIX}{name}{suffix}": {*family.labels}
        for name, family in {**AGENT, **CLIENT}.items()
        for suffix in SUFFIXES[family.form]
    }


def expressions() -> Iterator[tuple[str, str, str]]:
    """Where, the expression, and the text that is shown with its labels."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]
    for rule in ALERTS["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())


EXPRESSIONS = list(expressions())


def test_the_families_are_what_is_exposed() -> None:
    text = exposed(AgentCollector(lambda: document_of("N", [], is_stopping=False), list))[0].decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    wanted = {f"{PREFIX}{name}{SUFFIXES[family.form][0]}" for name, family in {**AGENT, **CLIENT}.items()}
    assert {name.removesuffix("_bucket") for name in wanted} == set(types)


@pytest.mark.parametrize(("where", "expression", "shown"), EXPRESSIONS, ids=[each[0] for each in EXPRESSIONS])
def test_what_is_shown_exists(where: str, expression: str, shown: str) -> None:
    known = sample_names()
    used = EXPRESSION.findall(expression)
    assert used, where
    for name, matchers in used:
        assert name in known, f"{where}: {name}"
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert labels <= known[name], f"{where}: {name} has {known[name]}"
    grouped = {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",")}
    available = set.intersection(*(known[name] for name, _ in used)) | OF_PROMETHEUS
    assert grouped <= available, f"{where}: {grouped - available}"
    named = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", shown))
    left = grouped if grouped else available
    assert named <= left, f"{where} shows {named - left}, which the expression does not keep"


def test_brackets_close() -> None:
    for where, expression, _ in EXPRESSIONS:
        for pair in ("()", "{}", "[]"):
            assert expression.count(pair[0]) == expression.count(pair[1]), where


def test_metrics_that_a_description_names_exist() -> None:
    text = (ROOT / "conf" / "alerts.yaml").read_text()
    assert set(re.findall(r"\bservicebus_\w+", text)) <= set(sample_names())


def test_no_two_alerts_or_panels_have_one_name() -> None:
    for names in (
        [rule["alert"] for rule in ALERTS["groups"][0]["rules"]],
        [panel["title"] for panel in DASHBOARD["panels"]],
        [panel["id"] for panel in DASHBOARD["panels"]],
    ):
        assert len(set(names)) == len(names)


def test_the_reference_lists_every_metric_with_its_labels() -> None:
    page = (ROOT / "docs" / "metrics.rst").read_text()
    rows = re.findall(r"^   \* - ``(servicebus_\w+)``\n     - (.*)$", page, re.MULTILINE)
    listed = {name: set(re.findall(r"``(\w+)``", labels)) for name, labels in rows}
    assert listed == {
        f"{PREFIX}{name}{SUFFIXES[family.form][0].replace('_bucket', '')}": {*family.labels}
        for name, family in {**AGENT, **CLIENT}.items()
    }
