"""``servicebus token check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from envelopes import signed

from servicebus.cli.main import servicebus as program
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring

BUS, SHOP, OLD, GUEST = (
    "what the bus signs with",
    "the present key of shop",
    "the former key of shop",
    "the guest's own key",
)
AGENT = f"""
hosts: [mq]
node_name: NODE-01
secret_token: {BUS}
callers:
  shop:
    key: [{SHOP}, {OLD}]
    allow: ["*.math.*"]
    deny: "*.math.drop"
    publish: "orders.*"
  guest: {{key: "{GUEST}"}}
"""
ID_OF = {key: Keyring([key]).key_id for key in (BUS, SHOP, OLD, GUEST)}


@pytest.fixture(name="agent")
def _agent(tmp_path: Path) -> Path:
    file = tmp_path / "agent.yaml"
    file.write_text(AGENT)
    return file


def check(agent: Path, *arguments: str, given: str | bytes = "") -> Result:
    found = CliRunner().invoke(program, ["token", "check", "-c", str(agent), *arguments], input=given)
    assert not any(key in found.output for key in ID_OF), "no key is printed"
    return found


def told(agent: Path, *arguments: str, given: str | bytes = "") -> dict[str, Any]:
    found = check(agent, "--json", *arguments, given=given)
    return {**json.loads(found.stdout), "status": found.exit_code}


@pytest.mark.parametrize(
    ("key", "caller"), [(BUS, ""), (SHOP, "shop"), (f"{OLD}\r\n", "shop"), (f"\ufeff{GUEST}\n", "guest")]
)
def test_it_tells_whose_a_key_is(agent: Path, key: str, caller: str) -> None:
    found = told(agent, "--key", "-", given=key)
    assert (found["caller"], found["key_id"], found["status"]) == (caller, ID_OF[key.strip("\ufeff\r\n")], 0)
    file = agent.with_name("key")
    file.write_text(key)
    assert told(agent, "--key", str(file)) == found


@pytest.mark.parametrize("key", ["another key", SHOP.upper()])
def test_a_key_of_nobody_is_refused(agent: Path, key: str) -> None:
    found = check(agent, "--key", "-", given=key)
    assert found.exit_code == 6 and "no key with the id" in found.output
    assert key not in found.output


def test_it_tells_what_a_caller_may(agent: Path) -> None:
    found = check(agent, "--caller", "shop", "NODE-01.math.add", "NODE-01.math.drop", "--event", "orders.made")
    assert found.exit_code == 6
    assert found.stdout.splitlines() == [
        "caller  shop",
        f"key     {ID_OF[SHOP]} (also: {ID_OF[OLD]})",
        "allow   *.math.*",
        "deny    *.math.drop",
        "publish orders.*",
        "allowed NODE-01.math.add, by callers.shop.allow '*.math.*'",
        "DENIED  NODE-01.math.drop, by callers.shop.deny '*.math.drop'",
        "allowed orders.made, by callers.shop.publish 'orders.*'",
    ]
    assert check(agent, "--caller", "shop", "NODE-01.math.add").exit_code == 0
    assert "nothing" in check(agent, "--caller", "guest").stdout


def test_without_an_option_it_is_who_the_file_signs_as(agent: Path) -> None:
    assert told(agent, "NODE-01.any.thing")["targets"][0]["rule"] == "secret_token"
    assert "none: a peer with the secret of the bus" in check(agent).stdout
    agent.write_text(AGENT + "caller: shop\n")
    assert told(agent)["caller"] == "shop" and told(agent)["key_id"] == ID_OF[SHOP]
    agent.write_text(f"hosts: [mq]\ncaller: shop\nsecret_token: {SHOP}\n")
    assert told(agent)["key_id"] == ID_OF[SHOP] and "what the callers of each node say" in check(agent).stdout


@pytest.mark.parametrize(
    ("key", "caller", "is_allowed"), [(SHOP, "shop", True), (GUEST, "guest", False), (BUS, "", True)]
)
def test_it_tells_who_has_signed_an_envelope(agent: Path, key: str, caller: str, is_allowed: bool) -> None:
    body = signed("NODE-01.math.add", [1, 2], secret=key)
    found = told(agent, "--envelope", "-", given=body)
    assert (found["caller"], found["key_id"], found["kind"]) == (caller, ID_OF[key], "call")
    assert found["targets"][0]["target"] == "NODE-01.math.add" and found["targets"][0]["allowed"] is is_allowed
    assert found["status"] == (0 if is_allowed else 6)


def test_an_envelope_that_is_forged_old_or_none_is_refused(agent: Path) -> None:
    body = signed("NODE-01.math.add", [1, 2], secret=SHOP)
    assert check(agent, "--envelope", "-", given=body.replace(b"[1,2]", b"[1,3]")).exit_code == 6
    assert check(agent, "--envelope", "-", given=b"<event/>").exit_code == 2
    old = signed("NODE-01.math.add", [1, 2], secret=SHOP, sent_s_ago=3600, kind=Kind.CALL)
    found = check(agent, "--envelope", "-", given=old)
    assert found.exit_code == 6 and "REFUSED stale" in found.stdout and "allowed NODE-01.math.add" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--caller", "ghost"], "they are: shop, guest"),
        (["--caller", "shop", "--key", "-"], "takes one of"),
        (["--key", "-"], "it is empty"),
        (["math.add"], "not an address"),
        (["--event", "orders.*"], "not the name of an event"),
    ],
)
def test_arguments_that_cannot_be_are_named(agent: Path, arguments: list[str], says: str) -> None:
    found = check(agent, *arguments)
    assert found.exit_code == 2 and says in found.output


def test_config_check_shows_the_ids_of_callers(agent: Path) -> None:
    found = CliRunner().invoke(program, ["config", "check", str(agent)])
    assert f"caller  shop  key {ID_OF[SHOP]}, {ID_OF[OLD]}" in found.stdout and SHOP not in found.output
    found = CliRunner().invoke(program, ["--json", "config", "check", str(agent)])
    assert json.loads(found.stdout)["callers"] == {"shop": [ID_OF[SHOP], ID_OF[OLD]], "guest": [ID_OF[GUEST]]}
