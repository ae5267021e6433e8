"""What typed functions promise, whatever carries their calls: the same in memory and on RabbitMQ."""

from __future__ import annotations

from typing import Any

import pytest
from bus_services import OutOfStock
from bus_worlds import NODE, World

from servicebus.errors import InvalidParams, RemoteError, UnknownService

GOOD: list[tuple[str, Any, Any]] = [
    ("total", {"price": 5, "count": 2}, 10),
    ("total", {"price": 5}, 5),
    ("total", [5, 2], 10),
    ("total", [5], 5),
    ("total", {"price": 2**70}, 2**70),
    ("order", {"sku": "a", "count": 2}, {"sku": "a", "price": "3.00", "from": "database"}),
    ("order", {"sku": "ü🐇", "count": 1, "price": "0.10"}, {"sku": "ü🐇", "price": "0.10", "from": "database"}),
    ("order", {"sku": "a", "count": 1, "due": "2026-01-31"}, {"sku": "a", "price": "1.50", "from": "database"}),
    ("paint", {"colour": "red"}, "1 x RED"),
    ("paint", {"colour": "blue", "layers": 3}, "3 x BLUE"),
    ("double", [4], 8),
    ("double", {"n": -4}, -8),
    ("wait", [0.01], "waited"),
    ("through", {"n": 3}, 6),
]

BAD: list[tuple[str, Any, list[tuple[str, ...]]]] = [
    ("total", {}, [("price",)]),
    ("total", [], [("price",)]),
    ("total", {"price": "five"}, [("price",)]),
    ("total", {"price": 1.5}, [("price",)]),
    ("total", {"price": None}, [("price",)]),
    ("total", {"price": [], "count": {}}, [("price",), ("count",)]),
    ("total", {"price": 1, "colour": "red"}, [("colour",)]),
    ("total", [1, 2, 3], [("2",)]),
    ("order", {"sku": "a", "count": 0}, [("count",)]),
    ("order", {"sku": 1, "count": "x"}, [("sku",), ("count",)]),
    ("order", {"sku": "a", "count": 1, "due": "yesterday"}, [("due",)]),
    ("paint", {"colour": "green"}, [("colour",)]),
    ("double", {"m": 1}, [("n",), ("m",)]),
]


def ask(world: World, name: str, params: Any) -> Any:
    return world.sender.call(f"{NODE}.shop.{name}", params)[1]


@pytest.mark.parametrize(("name", "params", "result"), GOOD, ids=[f"{name}-{params}" for name, params, _ in GOOD])
def test_params_are_bound_to_the_signature(world: World, name: str, params: Any, result: Any) -> None:
    assert ask(world, name, params) == result


@pytest.mark.parametrize(("name", "params", "places"), BAD, ids=[f"{name}-{params}" for name, params, _ in BAD])
def test_a_bad_request_names_each_place_and_is_not_run(
    world: World, name: str, params: Any, places: list[tuple[str, ...]]
) -> None:
    with pytest.raises(InvalidParams) as caught:
        ask(world, name, params)
    found = [tuple(str(part) for part in error.place)[-1:] for error in caught.value.errors]
    assert found == places
    assert not [entry for entry in world.history.only("executed") if not entry.detail]


def test_a_declared_error_arrives_as_its_class(world: World) -> None:
    with pytest.raises(OutOfStock, match="10 of a left") as caught:
        ask(world, "order", {"sku": "a", "count": 11})
    assert (caught.value.sku, caught.value.left) == ("a", 10)


def test_a_bad_result_is_the_services_fault(world: World) -> None:
    with pytest.raises(RemoteError):
        ask(world, "wrong", [])
    assert ask(world, "double", [1]) == 2


def test_a_function_that_is_not_in_the_group_is_not_there(world: World) -> None:
    with pytest.raises(UnknownService):
        ask(world, "database", [])


@pytest.mark.costly
def test_many_asynchronous_calls_run_side_by_side(world: World) -> None:
    futures = [world.sender.call_async(f"{NODE}.shop.wait", [30.0], 60) for _ in range(40)]
    world.until(lambda: len(world.history.only("executed")) == 40)  # messages that say that they have begun
    assert not any(future.done() for future in futures)
    for future in futures:
        future.cancel()
    world.until(lambda: len(world.history.only("executed")) == 120)  # with 40 tasks, and what each says at its end
