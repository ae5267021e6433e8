"""The pages of the console, made from its templates (servicebus.contracts.templates)."""

from __future__ import annotations

import time
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from servicebus import __version__
from servicebus.contracts.templates import make_environment
from servicebus.wire.printable import counted

__all__ = ["is_fragment", "page"]


def _moment(unix_s: float | None) -> Markup:
    """A time in the zone of this machine, as the commands print it."""
    if unix_s is None or not 0 < unix_s < 99_999_999_999:
        return Markup("-")
    local = time.localtime(unix_s)
    machine, people = time.strftime("%Y-%m-%dT%H:%M:%S%z", local), time.strftime("%Y-%m-%d %H:%M:%S", local)
    return Markup('<time datetime="{}">{}</time>').format(machine, people)


def _figure(value: float | None, digits: int = 1) -> str:
    """A number that may be unknown."""
    return "-" if value is None else f"{value:.{digits}f}"


_ENVIRONMENT = make_environment("servicebus.web", "files")
_ENVIRONMENT.filters["moment"] = _moment
_ENVIRONMENT.filters["figure"] = _figure
_ENVIRONMENT.globals.update(counted=counted, version=__version__, zone=lambda: time.strftime("%Z %z"))
_ENVIRONMENT.globals["offset"] = lambda: time.localtime().tm_gmtoff


def is_fragment(request: Request) -> bool:
    """A page that is there asks for its part that changes."""
    return "hx-request" in request.headers


def page(request: Request, name: str, /, status: int = 200, **values: Any) -> HTMLResponse:
    """The page ``NAME.html``, or what of it changes, ``_NAME.html``, if that is what is asked for."""
    file = f"_{name}.html" if is_fragment(request) else f"{name}.html"
    state = request.state
    common = {"visitor": state.visitor, "form_token": state.form_token, "path": request.url.path}
    return HTMLResponse(_ENVIRONMENT.get_template(file).render(common, **values), status)
