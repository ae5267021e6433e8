"""Templates: Jinja2, all escaped. Whatever a node, a message or a broker says is text of strangers."""

from __future__ import annotations

import time
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from servicebus import __version__
from servicebus.wire.printable import counted, printable

__all__ = ["is_fragment", "page"]


def _shown(value: Any) -> Any:
    """What moves the reader's cursor or eye, such as U+202E, is shown as its code."""
    return printable(value, keep_newlines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


def _moment(unix_s: float | None) -> Markup:
    """A time in the zone of this machine, as the commands print it."""
    if unix_s is None or not 0 < unix_s < 99_999_999_999:
        return Markup("-")
    local = time.localtime(unix_s)
    machine, people = time.strftime("%Y-%m-%dT%H:%M:%S%z", local), time.strftime("%Y-%m-%d %H:%M:%S", local)
    return Markup('<time datetime="{}">{}</time>').format(machine, people)


_ENVIRONMENT = Environment(
    loader=PackageLoader("servicebus.web", "files"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["moment"] = _moment
_ENVIRONMENT.globals.update(counted=counted, version=__version__)


def is_fragment(request: Request) -> bool:
    """A page that is there asks for its part that changes."""
    return "hx-request" in request.headers


def page(request: Request, name: str, /, status: int = 200, **values: Any) -> HTMLResponse:
    """The page ``NAME.html``, or what of it changes, ``_NAME.html``, if that is what is asked for."""
    file = f"_{name}.html" if is_fragment(request) else f"{name}.html"
    state = request.state
    common = {"visitor": state.visitor, "form_token": state.form_token, "path": request.url.path}
    return HTMLResponse(_ENVIRONMENT.get_template(file).render(common, **values), status)
