"""What a process inherits: which files can be read, and which ended processes are its own to wait for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from servicebus.runtime import inherited
from servicebus.runtime.inherited import Orphans, readable


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def test_files_that_can_be_read_or_have_ended_are_found(pipe: tuple[int, int]) -> None:
    read, write = pipe
    assert readable([read], 0.0) == set()
    os.write(write, b"x")
    assert readable([read], 60.0) == {read}
    os.read(read, 1)
    assert readable([read], -1.0) == set(), "it does not wait"
    os.close(write)
    assert readable([read], 60.0) == {read}


@pytest.mark.parametrize("is_init", [True, False])
def test_process_1_waits_for_what_was_left_to_it_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch, is_init: bool
) -> None:
    children, waited = [10], list[int]()
    monkeypatch.setattr(inherited, "_children", lambda: list(children))
    # Of that module alone: threads of ours that other tests have left would take themselves for a child's, and end.
    told = SimpleNamespace(getpid=lambda: 1 if is_init else 2, waitpid=lambda pid, _: waited.append(pid), WNOHANG=1)
    monkeypatch.setattr(inherited, "os", told)
    orphans = Orphans()
    children += [11, 12]
    orphans.reap([11])
    assert waited == ([12] if is_init else []), "10 is the program's, 11 a worker"
