"""copies_of() against copy.copy(), for every way in which a class may be special."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from servicebus.runtime.instances import copies_of


class Plain:
    shared = "of the class"

    def __init__(self) -> None:
        self.mine = [1]


class Slots:
    __slots__ = ("mine",)

    def __init__(self) -> None:
        self.mine = [1]


class SlotsAndMore(Slots):
    def __init__(self) -> None:
        super().__init__()
        self.more = 2


class OfAList(list[int]):
    def __init__(self) -> None:
        super().__init__([7, 8])
        self.mine = [1]


class OwnCopy(Plain):
    def __copy__(self) -> OwnCopy:
        made = OwnCopy()
        made.mine = ["copied in its own way"]  # type: ignore[list-item]
        return made


class OwnReduce(Plain):
    def __reduce__(self) -> Any:
        return OwnReduce, ()


class OwnState(Plain):
    def __getstate__(self) -> dict[str, Any]:
        return {"mine": ["a state of its own"]}


class Untouched(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.made = 1

    def __setattr__(self, name: str, value: object) -> None:
        if name in vars(self):
            raise AttributeError(f"{name} is set once")
        super().__setattr__(name, value)


@pytest.mark.parametrize("kind", [Plain, Slots, SlotsAndMore, OfAList, OwnCopy, OwnReduce, OwnState, Untouched])
def test_an_instance_is_copied_as_copy_copies_it(kind: type[Any]) -> None:
    instance = kind()
    make = copies_of(instance)
    for made in (make(), make()):
        expected = copy.copy(instance)
        assert type(made) is kind
        assert made is not instance
        assert getattr(made, "mine", None) == getattr(expected, "mine", None)
        assert (made.mine is instance.mine) == (expected.mine is instance.mine)
        assert getattr(made, "__dict__", {}) == getattr(expected, "__dict__", {})
        assert isinstance(made, list) is False or list(made) == list(expected)


def test_a_copy_has_what_the_instance_has_then_and_keeps_its_own_to_itself() -> None:
    instance = Plain()
    make = copies_of(instance)
    instance.mine = [2]
    made = make()
    made.later = 3
    assert made.mine == [2]
    assert not hasattr(instance, "later")
