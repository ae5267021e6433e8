"""docs/api.rst lists exactly the public names, and whatever is not public says so."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import servicebus

PAGE = (Path(__file__).parents[2] / "docs" / "api.rst").read_text()
SECTION = re.compile(r"^(servicebus[\w.]*)\n-+\n(.*?)(?=^servicebus[\w.]*\n-|\Z)", re.MULTILINE | re.DOTALL)
LISTED = {module: re.findall(r"^   \* - ``(\w+)``$", text, re.MULTILINE) for module, text in SECTION.findall(PAGE)}


def test_the_page_has_the_public_modules() -> None:
    assert "servicebus.sender" in LISTED and len(LISTED) >= 8


@pytest.mark.parametrize("module", LISTED)
def test_a_section_lists_what_its_module_exports(module: str) -> None:
    assert LISTED[module] == list(importlib.import_module(module).__all__)


def test_every_other_module_has_an_underscore_or_says_that_it_is_private() -> None:
    others = [each for each in pkgutil.iter_modules(servicebus.__path__, "servicebus.") if each.name not in LISTED]
    for each in others:
        is_private = each.name.rpartition(".")[2].startswith("_")
        said = (importlib.import_module(each.name).__doc__ or "").startswith("Private. ")
        assert is_private or (each.ispkg and said), f"{each.name} is neither on docs/api.rst nor marked as private"


@pytest.mark.parametrize("module", LISTED)
def test_every_public_name_is_documented(module: str) -> None:
    found = importlib.import_module(module)
    undocumented = [
        name for name in found.__all__ if name not in ("Lock", "Authorize") and not getattr(found, name).__doc__
    ]
    assert not undocumented
