"""How Sphinx builds the site of docs/; bin/docs runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from sphinx.application import Sphinx

import servicebus

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER / "_sphinx"))

project = "servicebus"
author = "the servicebus authors"
project_copyright = author
version = release = servicebus.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "page_links"]
exclude_patterns = ["_sphinx"]
# Two dashes are an option.
smartquotes = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = f"servicebus {release}"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

# bin/docs --external asks the pages of others.
linkcheck_timeout = 20
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)"]


def escape_stars(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Help is plain text, in which a star is a star."""
    lines[:] = [line.replace("*", r"\*") for line in lines]


def setup(app: Sphinx) -> None:
    for part in ("description", "options"):
        app.connect(f"sphinx-click-process-{part}", escape_stars)
