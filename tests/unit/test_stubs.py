"""``servicebus stubs``: one file with a client, whose every service is called for real."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import many_services
import pytest
from click.testing import CliRunner
from type_checkers import CHECKERS, errors_found, errors_wanted

from servicebus.aio import AsyncSender
from servicebus.cli.main import servicebus
from servicebus.contracts import NodeContract
from servicebus.contracts.stubs import stub_of
from servicebus.contracts.values import from_json, to_json
from servicebus.errors import ContractMismatch, InvalidParams
from servicebus.testing import MemoryBus
from servicebus.typed import Services


def loaded(text: str, folder: Path) -> Any:
    path = folder / "many_client.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("many_client", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["many_client"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def world(memory_bus: Callable[..., MemoryBus]) -> MemoryBus:
    many_services.noted.clear()
    return memory_bus(many_services.group)


@pytest.fixture(params=["of the node", "after a file"])
def stub(request: pytest.FixtureRequest, world: MemoryBus, tmp_path: Path) -> Any:
    contract = world.sender.describe("NODE-01")
    if request.param == "after a file":
        path = tmp_path / "contract.json"
        path.write_text(json.dumps(contract.to_json()))
        contract = NodeContract.from_json(json.loads(path.read_text()))
    return loaded(stub_of(contract), tmp_path)


def test_each_service_is_called_for_real(world: MemoryBus, stub: Any) -> None:
    called = many_services.call_each(stub.Many(world.sender), stub)
    assert [(name, found) for name, found, _ in called] == [(name, wanted) for name, _, wanted in called]
    world.advance(1)
    assert len(many_services.noted) == 1
    services = {each.name for each in many_services.group}
    assert len(services) == 25
    assert {name.partition(" ")[0] for name, _, _ in called} == services - {"fail"}


def test_each_error_is_raised_for_real(world: MemoryBus, stub: Any) -> None:
    client = stub.Many(world.sender)
    with pytest.raises(stub.OutOfStock) as stock:
        client.fail("stock")
    assert (stock.value.sku, stock.value.left) == ("s-1", 2)
    assert stock.value.since == datetime(2026, 1, 2, tzinfo=timezone.utc)
    assert str(stock.value) == "2 of s-1 left"
    with pytest.raises(stub.Broken) as broken:
        client.fail("broken")
    assert (broken.value.at, broken.value.colour) == (stub.Point(x=1, y=2), stub.Colour.DARK_BLUE)
    with pytest.raises(stub.Plain) as plain:
        client.fail("plain")
    assert plain.value.args == ("it is", 5)


def test_the_async_client_is_its_twin(world: MemoryBus, stub: Any) -> None:
    async def main() -> None:
        client = stub.AsyncMany(AsyncSender.of(world.sender), timeout=5)
        assert await client.add(1, b=2) == 3
        assert await client.point(stub.Point(x=1)) == stub.Point(x=0, y=1)
        assert (await client.note("n")).confirmed_by
        with pytest.raises(stub.OutOfStock):
            await client.fail("stock")

    asyncio.run(main())
    for name, method in vars(stub.Many).items():
        if inspect.isfunction(method):
            assert inspect.signature(method) == inspect.signature(getattr(stub.AsyncMany, name))
            assert method.__doc__ == getattr(stub.AsyncMany, name).__doc__


def test_docstrings_are_those_of_the_services(stub: Any) -> None:
    docs = inspect.cleandoc(stub.Many.add.__doc__)
    assert docs.startswith(inspect.cleandoc(many_services.add.__doc__ or ""))
    assert "b: 0 if it is not given." in docs
    assert (
        "Deprecated: use add." in stub.Many.fail.__doc__
        and "Raises: OutOfStock, Broken, Plain" in stub.Many.fail.__doc__
    )
    assert stub.Line.__doc__ == "A line of an order."


def test_bad_params_and_another_version(world: MemoryBus, stub: Any, memory_bus: Callable[..., MemoryBus]) -> None:
    client = stub.Many(world.sender)
    with pytest.raises(InvalidParams) as bad:
        client.money(stub.Decimal(1), factor=stub.Decimal(-1))
    assert [each.place for each in bad.value.errors] == [("factor",)] and type(bad.value) is InvalidParams
    stub._MANY_ADD = stub.StubService("many.add", "0" * 24, stub._MANY_ADD.text.replace('"a"', '"z"'))
    with pytest.raises(ContractMismatch, match=r"caller: `z`; node NODE-01 runs 1.4: `no z`, new and required: `a`"):
        stub.Many(world.sender)._call(stub._MANY_ADD, int, {"z": 1})


@pytest.mark.parametrize("checker", CHECKERS)
def test_it_is_clean_for_type_checkers(world: MemoryBus, tmp_path: Path, checker: str) -> None:
    """As is what calls it, but for the mistakes that are meant."""
    (tmp_path / "many_client.py").write_text(stub_of(world.sender.describe("NODE-01")))
    (tmp_path / "use.py").write_text(USE)
    assert errors_found(checker, tmp_path) == errors_wanted(tmp_path)


USE = """
from decimal import Decimal
from many_client import AsyncMany, Line, Many, Order, Point

def use(client: Many) -> None:
    total: int = client.add(1, b=2)
    order: Order = client.order(Order(lines=[Line(sku="s")]))
    price: Decimal = order.lines[0].price
    client.add("1")  # ERROR
    wrong: str = client.add(1)  # ERROR
    Line(count=1)  # ERROR

async def use_async(client: AsyncMany) -> None:
    total: int = await client.add(1, b=2)
    await client.point(Point(y=1))  # ERROR
"""


def test_it_needs_no_pydantic(world: MemoryBus, tmp_path: Path) -> None:
    (tmp_path / "many_client.py").write_text(stub_of(world.sender.describe("NODE-01")))
    program = (
        "import sys; sys.modules['pydantic'] = None; import many_client; assert 'servicebus.aio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_names_that_python_does_not_allow(memory_bus: Callable[..., MemoryBus], tmp_path: Path) -> None:
    group = Services("odd-names")

    @group.rpc(name="class")
    def keyword(a: int) -> int:
        return a

    @group.rpc(name="a-b")
    def hyphen(sender_: int = 1) -> int:
        return sender_

    world = memory_bus(group)
    stub = loaded(stub_of(world.sender.describe("NODE-01")), tmp_path)
    client = stub.OddNames(world.sender)
    assert (client.class_(2), client.a_b()) == (2, 1)


def test_class_services_without_schemas_take_anything(memory_bus: Callable[..., MemoryBus], tmp_path: Path) -> None:
    class Echo:
        def on_call(self, request: Any, response: Any) -> None:
            response.send(request.get_params())

    world = memory_bus({"x.echo": Echo()})
    stub = loaded(stub_of(world.sender.describe("NODE-01")), tmp_path)
    assert stub.X(world.sender).echo({"a": [1]}) == {"a": [1]}


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "client.py"
    done = CliRunner().invoke(servicebus, ["stubs", "many_services:group", "-o", str(path)])
    assert (done.exit_code, done.output) == (0, f"{path}: 25 services\n")
    assert path.read_text() == stub_of(many_services.group.contract())
    done = CliRunner().invoke(servicebus, ["stubs", "many_services:group"])
    assert done.stdout == path.read_text()
    done = CliRunner().invoke(servicebus, ["stubs", "many_services:group", "-o", str(tmp_path / "no" / "client.py")])
    assert done.exit_code == 2 and "No such file or directory" in done.output
    assert sorted(each.name for each in tmp_path.iterdir()) == ["client.py"]


def test_errors_of_a_stub_are_pickled(stub: Any) -> None:
    error = stub.OutOfStock(sku="s", left=1)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.sku, again.left) == (stub.OutOfStock, "s", 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("P1Y2W3DT4H5M6.5S", timedelta(days=365 + 14 + 3, hours=4, minutes=5, seconds=6.5)),
        ("-PT1S", timedelta(seconds=-1)),
        ("P0D", timedelta(0)),
    ],
)
def test_durations(text: str, value: timedelta) -> None:
    assert from_json(text, timedelta) == value
    assert from_json(to_json(value), timedelta) == value


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("x", int), (1, str), (True, int), (None, int), (1, None), ("x", datetime), ("x", Decimal), ([1], Decimal),
        ({"a": 1}, list[int]), ([1], dict[str, int]), ([1], tuple[int, int]), ("z", Literal["a"]), (True, Literal[1]),
        (True, Decimal), ("x", int | None), ("x", float),
    ],
)  # fmt: skip
def test_a_value_of_another_version_is_a_value_error(value: Any, hint: Any) -> None:
    with pytest.raises(ValueError):
        from_json(value, hint)
