"""Links between pages, written as a reader of the sources needs them: ```sender.rst <sender.rst#errors>`_``.

Such a link leads to a file, and to a section of it, where the source is read. On the site it leads to the page that was
made of that file, and to that section; to any other file of the repository it is a download. One that leads nowhere is
a warning.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.nodes import make_refnode

ELSEWHERE = re.compile(r"[a-z]+:|#|$")
PAGES_OF = {"CHANGELOG": "changelog", "CONTRIBUTING": "contributing", "SECURITY": "security", "README": "start"}


class PageLinks(SphinxTransform):
    """Makes references of Sphinx of the links to files."""

    default_priority = 600

    def apply(self, **kwargs: Any) -> None:
        for link in list(self.document.findall(nodes.reference)):
            uri = link.get("refuri", "")
            if ELSEWHERE.match(uri):
                continue
            path, _, anchor = uri.partition("#")
            target = os.path.relpath(_file_of(link).parent / path, self.env.srcdir)
            link.replace_self(self._page(link, target, anchor) if path.endswith(".rst") else self._file(link, target))

    def _page(self, link: nodes.reference, target: str, anchor: str) -> addnodes.pending_xref:
        page = target.removesuffix(".rst")
        page = PAGES_OF.get(Path(page).name, page) if page.startswith("..") else page
        # The name of a file says something where files are read; here the page has a title.
        named = link.astext().partition("#")[0].endswith(".rst")
        found = addnodes.pending_xref(
            "", refdomain="", reftype="page", reftarget=page, anchor=anchor, named=named, refdoc=self.env.docname,
            refwarn=True,
        )  # fmt: skip
        found.source, found.line = link.source, link.line
        found += nodes.inline("", link.astext())
        return found

    def _file(self, link: nodes.reference, target: str) -> addnodes.download_reference:
        found = addnodes.download_reference("", "", reftype="download", reftarget=f"/{target}", refdoc=self.env.docname)
        found.source, found.line = link.source, link.line
        found += nodes.inline("", link.astext())
        return found


def _file_of(link: nodes.Node) -> Path:
    """Where *link* is written, which may be a file that the page includes."""
    node: nodes.Node | None = link
    while node is not None and not node.source:
        node = node.parent
    assert node is not None and node.source is not None
    return Path(node.source).resolve()


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Element) -> Any:
    """The reference to a page and its section, or None, which Sphinx takes for a warning."""
    if node.get("reftype") != "page" or node["reftarget"] not in env.all_docs:
        return None
    page, anchor = node["reftarget"], node["anchor"]
    headings = {link["anchorname"]: link for link in env.tocs[page].findall(nodes.reference)}
    if anchor and f"#{anchor}" not in headings:
        return None
    if node["named"]:
        title = headings[f"#{anchor}"] if anchor else env.titles[page]
        shown = nodes.inline("", title.astext())
    return make_refnode(app.builder, node["refdoc"], page, anchor, shown)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(PageLinks)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
