"""The documentation of a node's services as a static site: files that a browser reads from a folder or any server.

Needs Jinja2: ``pip install servicebus-failover[docs]``. Whatever a description holds is text of strangers: every value
is escaped, and the pages allow no script, style or image but those that are written beside them.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

try:
    from markupsafe import Markup, escape

    from servicebus.contracts.templates import make_environment
except ImportError as error:
    raise ImportError("docs needs Jinja2: pip install servicebus-failover[docs]") from error

from servicebus.contracts.description import NodeContract
from servicebus.contracts.pages import EventPage, Page, make_event_pages, make_pages, search_index
from servicebus.wire.printable import counted, printable

__all__ = ["make_site", "write_site"]

_STATIC = ("style.css", "search.js")
_FILES = Path(__file__).with_name("site_files")
_MARK = ".servicebus-docs"
"""A file of the folder that says by what it was written, so that nothing else is ever overwritten."""


def make_site(contract: NodeContract) -> dict[str, str]:
    """The text of each file, by its path within the site.

    Raises:
        ContractError: a schema cannot be read.
    """
    pages, events = make_pages(contract), make_event_pages(contract)
    environment = make_environment("servicebus.contracts", "site_files")
    environment.filters["linked"] = _linked
    categories = {name: list(each) for name, each in groupby(pages, key=lambda page: page.service.category)}
    common = {
        "title": contract.node or (next(iter(categories)) if len(categories) == 1 else "Services"),
        "node": contract.node,
        "count": counted(len(pages), "service") + (f", {counted(len(events), 'published event')}" if events else ""),
    }
    index = environment.get_template("index.html")
    found = {"index.html": index.render(common, categories=categories, events=events, root="")}
    template = environment.get_template("service.html")
    for page in pages:
        siblings = categories[page.service.category]
        found[f"services/{page.file}"] = template.render(common, page=page, siblings=siblings, root="../")
    template = environment.get_template("event.html")
    for each in events:
        found[f"services/{each.file}"] = template.render(common, page=each, siblings=events, root="../")
    found.update({f"static/{name}": (_FILES / name).read_text(encoding="utf-8") for name in _STATIC})
    # A script, since pages that are read from a file cannot fetch any; ASCII, so that nothing in it ends the line.
    found["static/search-index.js"] = f"window.servicebusIndex = {json.dumps(search_index(pages, events))};\n"
    return found


def write_site(folder: Path, files: dict[str, str]) -> None:
    """Write them, and remove the pages of services of an earlier run.

    Raises:
        FileExistsError: the folder holds something that is no such site.
        OSError: it cannot be written.
    """
    mark = folder / _MARK
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty, and no site that servicebus docs has written")
    for name in ("services", "static"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mark.write_text("Written by servicebus docs, which may replace it.\n")
    for path in (folder / "services").glob("*.html"):
        if f"services/{path.name}" not in files:
            path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _linked(text: str, page: Page | EventPage) -> Markup:
    """Notation, in which the names of models lead to their fields."""
    anchors = {each.title: f"#type-{number}" for number, each in enumerate(page.structures, 1)}
    parts = re.split(r"(\w+)", text)
    return Markup("").join(
        Markup('<a href="{}">{}</a>').format(anchors[part], printable(part))
        if part in anchors
        else escape(printable(part))
        for part in parts
    )
