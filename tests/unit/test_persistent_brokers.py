"""The state of ``servicebus broker``: what stands in its way is one line, which names the file and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from servicebus.cli.main import servicebus


@pytest.mark.parametrize("command", ["up", "status", "down", "kill"])
@pytest.mark.parametrize("base", ["/proc", "/dev/null"])
def test_a_runtime_folder_that_cannot_be_made_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str, base: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    done = CliRunner().invoke(servicebus, ["broker", command, *(["a"] if command == "kill" else [])])
    assert done.exit_code not in (0, 2, 70) and "Traceback" not in done.stderr
    assert f"{base}/servicebus cannot be made: " in done.stderr and "set XDG_RUNTIME_DIR" in done.stderr


@pytest.mark.parametrize("command", ["up", "status", "down", "kill"])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"names": 1, "folder": "x"}', '{"names": ["a"], "folder": 1}', "\x00"]
)
def test_a_damaged_list_of_brokers_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, text: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    file = tmp_path / "servicebus" / "brokers.json"
    file.parent.mkdir(mode=0o700)
    file.write_text(text)
    done = CliRunner().invoke(servicebus, ["broker", command, *(["a"] if command == "kill" else [])])
    assert done.exit_code not in (0, 2, 70), done.stderr
    assert f"{file}, which says what brokers there are, cannot be read: " in done.stderr and "remove it" in done.stderr
