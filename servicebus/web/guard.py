"""RequestGuard: what every request passes before a page sees it, and the headers that every answer gets.

GET and HEAD change nothing, and need a visitor who may see. POST is refused unless it comes from a page of the console:
by the Origin of the browser, and by a token in the form that fits the visitor's cookie. Pages may load scripts, styles
and data from the console alone, and hold neither in themselves (Content-Security-Policy).
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servicebus.web.access import Access, Visitor
from servicebus.web.users import Role

__all__ = ["COOKIE", "FORM_TOKEN", "RequestGuard", "set_session"]

COOKIE = "servicebus_console"
FORM_TOKEN = "form_token"  # noqa: S105 - the name of a field
_SESSION = re.compile(r"[A-Za-z0-9_-]{20,100}", re.ASCII)
_MOST_FORM_BYTES = 4 * 1024 * 1024
_MOST_FIELDS = 500
_PUBLIC = ("/static/", "/login")
_FOR_VIEWERS = ("/login", "/logout", "/dead/look", "/what")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # "no-referrer" would take the Origin from forms, too
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class RequestGuard:
    """Around the application; puts ``visitor``, ``session``, ``form_token`` and ``form`` into the request's state."""

    def __init__(self, app: ASGIApp, access: Access, *, is_secure: bool):
        self._app = app
        self._access = access
        self._is_secure = is_secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no websockets here
        request = Request(scope, receive)
        session = request.cookies.get(COOKIE, "")
        if not _SESSION.fullmatch(session):
            session = ""
        state = request.state
        state.session = session or secrets.token_urlsafe(32)
        try:
            refusal = await self._refusal(request)
        except ClientDisconnect:
            return
        if not session and request.method == "GET" and not request.url.path.startswith("/static/"):
            state.new_session = state.session

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self._headers(message["headers"], request)}
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _headers(self, given: list[tuple[bytes, bytes]], request: Request) -> list[tuple[bytes, bytes]]:
        names = {name for name, _ in given}
        added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
        if b"cache-control" not in names:
            added.append((b"cache-control", b"no-store"))
        if new := getattr(request.state, "new_session", ""):
            cookie = Response()
            set_session(cookie, new, is_secure=self._is_secure)
            added += [(name, value) for name, value in cookie.raw_headers if name == b"set-cookie"]
        return [*given, *added]

    async def _refusal(self, request: Request) -> Response | None:
        """What is answered instead of the page; None if the request may go on."""
        state, path = request.state, request.url.path
        if not self._access.accepts_host(_host_of(request)):
            return _refused(421, "The console does not answer to this name. Use localhost.")
        if request.method not in ("GET", "HEAD", "POST"):
            return _refused(405, "Only GET, HEAD and POST.")
        client = request.client.host if request.client is not None else ""
        visitor = self._access.visitor(state.session, request.headers, client)
        if visitor is None and not path.startswith(_PUBLIC):
            return self._not_known(request)
        state.visitor = visitor or Visitor("", Role.VIEW)
        state.form_token = self._access.form_token(state.session, state.visitor.name)
        state.form = {}
        if request.method != "POST":
            return None
        if not _is_own_page(request):
            return _refused(403, "This form was sent by a page of another site. Nothing was done.")
        form = await _read_form(request)
        if form is None:
            return _refused(413, "This is no form, or it is too large. Nothing was done.")
        if not hmac.compare_digest(form.get(FORM_TOKEN, "").encode(), state.form_token.encode()):
            return _refused(403, "This page is out of date. Load it again; nothing was done.")
        if state.visitor.role is not Role.OPERATE and path not in _FOR_VIEWERS:
            return _refused(403, "You may look, and change nothing: your role is view.")
        state.form = form
        return None

    def _not_known(self, request: Request) -> Response:
        if not self._access.has_login:
            return _refused(401, "The reverse proxy has not said who you are.")
        if request.method == "POST":
            return _refused(401, "You are not logged in any more. Nothing was done.")
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"HX-Redirect": _login(request.headers.get("hx-current-url", ""))})
        return RedirectResponse(_login(str(request.url)), 303)


def _login(url: str) -> str:
    """The page for the password, which leads back to the one of *url*."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "/login"
    query = f"?{parts.query}" if parts.query else ""
    return f"/login?next={quote(parts.path + query)}" if parts.path else "/login"


def set_session(response: Response, session: str, *, is_secure: bool) -> None:
    """Have the browser keep *session*; it sends it with requests of the console's own pages alone."""
    response.set_cookie(COOKIE, session, path="/", httponly=True, samesite="strict", secure=is_secure)


def _host_of(request: Request) -> str:
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").lower()
    except ValueError:
        return ""


def _is_own_page(request: Request) -> bool:
    """As the browser says; a program that is none says nothing, and has no cookie of anybody."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None:
        return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    return site in (None, "same-origin")


async def _read_form(request: Request) -> Mapping[str, str] | None:
    """The fields; of one that is there twice the last value. None if it is no form."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return None
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_FORM_BYTES:
            return None
    try:
        options: dict[str, Any] = {"keep_blank_values": True, "max_num_fields": _MOST_FIELDS, "errors": "strict"}
        return dict(parse_qsl(body.decode("ascii"), **options))
    except ValueError:
        return None


def _refused(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status)
