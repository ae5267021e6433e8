"""``servicebus contract diff``: from where it reads contracts, what it prints, and its exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from servicebus.cli.main import servicebus
from servicebus.testing import MemoryBus
from servicebus.typed import Services

MODULE = """
from servicebus.typed import Services

old, wider, narrower, other = Services("shop"), Services("shop"), Services("shop"), Services("audit")

@old.rpc
def price(sku: str, count: int) -> int: ...

@wider.rpc
def price(sku: str, count: float = 1.0) -> int: ...

@narrower.rpc
def price(sku: str, count: int, currency: str) -> int: ...

@other.message
def note(text: str) -> None: ...

nothing = 5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current one, with a module of groups."""
    (tmp_path / "shop_of_tests.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SERVICEBUS_CONFIG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("shop_of_tests", None)


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(servicebus, ["contract", "diff", *arguments], **options)


def written(name: str, folder: Path) -> str:
    """A file with the contract of that group."""
    assert run("shop_of_tests:old", "shop_of_tests:old").exit_code == 0  # imports the module
    contract = getattr(sys.modules["shop_of_tests"], name).contract()
    (folder / f"{name}.json").write_text(json.dumps(contract.to_json()))
    return f"{name}.json"


@pytest.mark.parametrize(
    ("new", "status", "lines"),
    [
        ("old", 0, ["no differences"]),
        (
            "wider",
            0,
            [
                "shop.price",
                "    compatible  params count: was required, is now optional",
                "    compatible  params count: default: was none, is now 1.0",
                "    compatible  params count: was int, is now float",
                "3 differences, none of which breaks callers",
            ],
        ),
        (
            "narrower",
            1,
            [
                "shop.price",
                "    BREAKING    params currency: new and required",
                "1 difference, 1 of which breaks callers",
            ],
        ),
    ],
)
def test_groups_are_compared(new: str, status: int, lines: list[str]) -> None:
    found = run("shop_of_tests:old", f"shop_of_tests:{new}")
    assert (found.exit_code, sorted(found.output.splitlines())) == (status, sorted(lines))


def test_files_and_stdin_are_read(folder: Path) -> None:
    old, new = written("old", folder), written("narrower", folder)
    assert run(old, new).exit_code == 1
    assert run(new, new).exit_code == 0
    assert run(old, "-", input=(folder / new).read_text()).exit_code == 1
    assert run(f"./{old}", "shop_of_tests:old").output == "no differences\n"


def test_the_json_holds_every_difference() -> None:
    found = json.loads(run("--json", "shop_of_tests:old", "shop_of_tests:narrower").stdout)
    assert found == {
        "old": "shop_of_tests:old",
        "new": "shop_of_tests:narrower",
        "breaking": 1,
        "differences": [
            {
                "service": "shop.price",
                "direction": "params",
                "path": "currency",
                "keyword": "presence",
                "old": "absent",
                "new": "required",
                "effect": "breaking",
                "text": "new and required",
            }
        ],
    }


def test_the_agent_of_a_configuration_is_compared(folder: Path) -> None:
    """As it would serve, without a broker."""
    services = [{"group": "shop_of_tests:wider"}, {"group": "shop_of_tests:other"}]
    text = json.dumps(
        {"node_name": "NODE-01", "hosts": ["mq-1"], "secret_token": "0123456789abcdef", "services": services}
    )
    (folder / "agent.yaml").write_text(text)
    assert run("agent.yaml", "agent.yaml").output == "no differences\n"
    found = run("shop_of_tests:old", "agent.yaml")
    assert found.exit_code == 0
    assert "only what belongs to shop is compared" in found.stderr
    assert "audit" not in found.stdout
    assert "note" in run(written("old", folder), "agent.yaml").stdout


def test_a_node_is_asked(memory_bus: Callable[..., MemoryBus], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Services("shop")

    @group.rpc
    def price(sku: str, count: int, currency: str = "EUR") -> int:
        return 1

    world = memory_bus(group)
    monkeypatch.setattr("servicebus.sender.Sender", lambda configuration: world.sender)
    (folder / "sender.yaml").write_text("hosts: [mq-1]\nsecret_token: a secret of some length\n")
    found = run("-c", "sender.yaml", "shop_of_tests:old", "NODE-01")
    assert (found.exit_code, found.stdout.splitlines()[1]) == (0, "    compatible  params currency: new and optional")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("gone.json", "gone.json: [Errno 2] No such file"),
        ("broken.json", "broken.json: Expecting"),
        ("other.json", "other.json: no description of a node"),
        ("NODE-01", "to ask a node, name a configuration by -c FILE"),
        ("no_such_module:group", "cannot be imported: ModuleNotFoundError"),
        ("shop_of_tests:gone", "shop_of_tests has no gone"),
        ("shop_of_tests:nothing", "is no group (servicebus.typed.Services) but a int"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(source: str, text: str, folder: Path) -> None:
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text("{}")
    for arguments in ((source, "shop_of_tests:old"), ("shop_of_tests:old", source)):
        found = run(*arguments)
        assert (found.exit_code, text in " ".join(found.stderr.split())) == (2, True), found.stderr


def test_names_from_strangers_cannot_move_the_cursor(folder: Path) -> None:
    old = json.loads((folder / written("old", folder)).read_text())
    old["services"][0]["params"]["properties"]["\x1b[2J\u202e"] = {"type": "integer"}
    (folder / "odd.json").write_text(json.dumps(old))
    for json_option in ([], ["--json"]):
        text = run(*json_option, "old.json", "odd.json").stdout
        assert "2J" in text
        assert all(char.isprintable() or char == "\n" for char in text)
