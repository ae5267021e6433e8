"""The examples of docs/encryption.rst run, and so do the programs of examples/encryption."""

from __future__ import annotations

import getpass
import logging
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import servicebus.testing
from servicebus.configuration import Configuration

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "encryption.rst").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", PAGE)
    return [textwrap.dedent(block) for block in found]


def test_the_programs_run() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    assert len(blocks("python")) == 3
    for block in blocks("python"):
        exec(compile(block, "docs/encryption.rst", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours


def test_the_configurations_load() -> None:
    found = blocks("yaml")
    assert len(found) == 3
    for text in found:
        text = f"secret_token: the secret of the bus\n{text if 'hosts:' in text else f'hosts: [mq]{chr(10)}{text}'}"
        config = Configuration.parse(text, read_file=lambda path: "A" * 43 + "=" if "fernet" in path else f"in {path}")
        assert config.encryption is not None or config.hosts[0].fernet_keys


def test_a_password_is_kept_and_shown_to_its_caller_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "encryption"))
    import set_password  # type: ignore[import-not-found,unused-ignore]
    from passwords import passwords  # type: ignore[import-not-found,unused-ignore]

    encryption = {"keys": "the key of the example, long enough", "services": [], "events": []}
    with servicebus.testing.bus(passwords, encryption=encryption) as world:
        monkeypatch.setattr(set_password, "Sender", lambda file: world.make_sender())
        for password in ("hunter22", "short"):
            monkeypatch.setattr(getpass, "getpass", lambda password=password: password)
            set_password.main("sender.yaml", "NODE-01", "ada")
    said = capsys.readouterr().out.splitlines()
    asked = "asked for user='ada' password=Secret(***)"
    assert said == [
        asked, "kept, of length 8", "it is kept as *** beside those of ['ada']",
        asked, "refused: short is too short",
    ]  # fmt: skip
    shown = [logging.Formatter().format(each) for each in caplog.records]
    assert any("service passwords.keep failed" in each for each in shown)
    assert not any("short" in each.replace("is too short", "") and "short is" in each for each in shown)
    for name in ("set_password", "passwords"):
        sys.modules.pop(name, None)
