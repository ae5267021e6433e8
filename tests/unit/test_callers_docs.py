"""The examples of docs/callers.rst run, and so do the programs of examples/authorize."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import servicebus.testing
from servicebus.configuration import Configuration
from servicebus.errors import PermissionDenied

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "callers.rst").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", PAGE)
    return [textwrap.dedent(block) for block in found]


def test_the_programs_run() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(compile(block, "docs/callers.rst", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours


def test_the_configurations_load() -> None:
    found = blocks("yaml")
    assert len(found) == 3
    for text in found:
        text = text if "hosts:" in text else f"hosts: [mq]\n{text}"
        config = Configuration.parse(text, read_file=lambda path: f"the secret in {path}")
        assert config.caller == ("shop" if "caller: shop" in text else None)


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "authorize" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_web_token_says_what_a_user_may(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jwt")
    shop, customer = example("jwt_shop"), example("jwt_customer")
    callers = {"web": {"key": "the key of the web shop", "allow": "*.shop.*"}}
    with servicebus.testing.bus(shop.shop, callers=callers) as world:
        monkeypatch.setattr(customer, "Sender", lambda file: world.make_sender(caller="web"))
        customer.main("sender.yaml", "NODE-01", "ann", "customer")
        customer.main("sender.yaml", "NODE-01", "bob", "customer", "manager")
        said = capsys.readouterr().out.splitlines()
        assert said[:2] == ["whoami ann by web", "price 500"]
        assert said[2].startswith("set_price refused by authorize of shop.set_price: caller 'web' may not")
        assert said[2].endswith("the token has not the role manager")
        assert said[3:] == ["whoami bob by web", "price 500", "set_price apple costs 250"]
        for context in ({}, {"authorization": "x.y.z"}, {"authorization": customer.token_of("eve", "customer")[:-2]}):
            with pytest.raises(PermissionDenied):
                world.sender.call("NODE-01.shop.price", ["apple"], context=context)
        old = {"authorization": customer.token_of("ann", "customer", good_for_s=-1)}
        with pytest.raises(PermissionDenied, match="ExpiredSignatureError"):
            world.sender.call("NODE-01.shop.price", ["apple"], context=old)
