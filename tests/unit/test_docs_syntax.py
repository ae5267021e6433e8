"""README and docs are reStructuredText without a warning, as files too; bin/docs looks at the rest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OF_SPHINX = (".. toctree::", ".. include::", ".. automodule::", ".. click::")
PAGES = [
    page
    for page in (*sorted(ROOT.glob("*.rst")), *sorted((ROOT / "docs").rglob("*.rst")))
    if not any(directive in page.read_text() for directive in OF_SPHINX)
]

docutils: Any = pytest.importorskip("docutils.core")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_read_without_a_warning(page: Path) -> None:
    found = io.StringIO()
    settings = {"warning_stream": found, "report_level": 2, "file_insertion_enabled": False}
    text = page.read_text().replace(".. literalinclude::", "..")  # Sphinx's own: read as a comment
    docutils.publish_doctree(text, source_path=str(page), settings_overrides=settings)
    assert not found.getvalue(), found.getvalue()


def test_there_are_pages() -> None:
    assert len(PAGES) > 15
