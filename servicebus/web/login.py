"""The page for names and passwords."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from servicebus.web.access import Access, PasswordAccess, TooManyAttempts
from servicebus.web.guard import COOKIE, set_session
from servicebus.web.templates import page

__all__ = ["login_routes"]

Answer = Callable[[Request], Response]


def login_routes(access: Access, *, is_secure: bool) -> tuple[Answer, Answer, Answer]:
    """What shows the form, takes it, and ends the session."""

    def show(request: Request) -> Response:
        if not isinstance(access, PasswordAccess):
            return RedirectResponse("/", 303)
        return page(request, "login", next=_own_path(request.query_params.get("next", "/")), problem="")

    def take(request: Request) -> Response:
        form = request.state.form
        target = _own_path(form.get("next", "/"))
        if not isinstance(access, PasswordAccess):
            return RedirectResponse("/", 303)
        client = request.client.host if request.client is not None else ""
        try:
            session = access.log_in(form.get("name", ""), form.get("password", ""), client)
        except TooManyAttempts:
            problem = "Too many attempts. Try again in a minute."
            return page(request, "login", 429, next=target, problem=problem)
        if session is None:
            return page(request, "login", 403, next=target, problem="The name or the password is wrong.")
        response = RedirectResponse(target, 303)
        set_session(response, session, is_secure=is_secure)
        return response

    def end(request: Request) -> Response:
        if isinstance(access, PasswordAccess):
            access.log_out(request.state.session)
        response = RedirectResponse("/login" if access.has_login else "/", 303)
        response.delete_cookie(COOKIE, path="/")
        return response

    return show, take, end


def _own_path(text: str) -> str:
    """A path of the console; ``/`` for what would lead to another site."""
    is_path = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_path else "/"
