"""Who may see and do what in the console, and what is refused whatever it asks for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fleet_looks import BROKERS, drawn, look
from starlette.testclient import TestClient
from web_clients import LOCAL, client_of, token_in

from servicebus.errors import ConfigurationError
from servicebus.web import access as access_module
from servicebus.web.access import OpenAccess, PasswordAccess, ProxyAccess
from servicebus.web.guard import COOKIE
from servicebus.web.users import Role, is_password, read_users, set_user

VIEW = drawn(look({"NODE-1": BROKERS}))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    set_user(path, "vera", Role.VIEW, "of vera")
    set_user(path, "olga", Role.OPERATE, "of olga")
    return path


def test_the_file_of_users_keeps_no_password(users: Path) -> None:
    found = read_users(users)
    assert {name: user.role.value for name, user in found.items()} == {"vera": "view", "olga": "operate"}
    assert "of vera" not in users.read_text() and users.stat().st_mode & 0o777 == 0o600
    assert is_password("of vera", found["vera"].hash) and not is_password("of olga", found["vera"].hash)
    set_user(users, "vera", Role.OPERATE, "another")
    changed = read_users(users)
    assert changed["vera"].role is Role.OPERATE and is_password("another", changed["vera"].hash)
    assert changed["olga"] == found["olga"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "no user"), ("vera:view:plain\n", "no line"), ("vera:root:scrypt$16384$YQ==$YQ==\n", "no line")],
)
def test_a_file_of_users_that_is_none_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "users"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=problem):
        read_users(path)


def test_a_file_of_users_that_others_can_read_is_refused(users: Path) -> None:
    users.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_users(users)


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "../x", "-x"])
def test_what_is_no_name_makes_no_line(users: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        set_user(users, name, Role.VIEW, "x")


def test_without_users_only_names_of_this_machine_lead_to_it() -> None:
    """A page of another site whose name is made to lead to 127.0.0.1 has the other site's name."""
    for name, status in {
        "localhost": 200,
        "127.0.0.1": 200,
        "[::1]": 200,
        "evil.example": 421,
        "127.0.0.1.x": 421,
    }.items():
        with client_of(VIEW, base_url=f"http://{name}:8480") as client:
            assert client.get("/").status_code == status, name
            assert client.get("/static/console.css").status_code == status, name


def test_every_answer_says_what_a_page_may_do() -> None:
    with client_of(VIEW) as client:
        for path in ("/", "/static/console.css", "/no-such-page"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert client.get("/").headers["cache-control"] == "no-store"
        assert "httponly; path=/; samesite=strict" in client_cookie(client).lower()


def client_cookie(client: TestClient) -> str:
    client.cookies.clear()
    return str(client.get("/").headers["set-cookie"])


def test_pages_hold_no_script_and_no_style() -> None:
    with client_of(VIEW) as client:
        text = client.get("/").text
    assert "<style" not in text and " style=" not in text and " onclick=" not in text and "<script>" not in text
    assert "http://" not in text and "https://" not in text, "nothing comes from outside"


def test_templates_are_no_static_files() -> None:
    with client_of(VIEW) as client:
        assert client.get("/static/base.html").status_code == 404
        assert client.get("/static/%2e%2e/access.py").status_code == 404
        assert client.get("/static/vendor/htmx.min.js").status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    with client_of(VIEW) as client:
        assert client.request(method, "/").status_code == 405


def test_a_password_opens_a_session_that_ends_with_the_log_out(users: Path) -> None:
    with client_of(VIEW, PasswordAccess(read_users(users)), base_url="http://console.example") as client:
        refused = client.get("/?q=x")
        assert refused.status_code == 303 and refused.headers["location"] == "/login?next=/%3Fq%3Dx"
        fragment = {"HX-Request": "true"}
        assert client.get("/", headers=fragment).headers["hx-redirect"] == "/login"
        shown = {"HX-Current-URL": "http://console.example/node/N?level=ERROR"}
        led = client.get("/node/N", headers=fragment | shown).headers["hx-redirect"]
        assert led == "/login?next=/node/N%3Flevel%3DERROR", "back to the page that was shown"
        form = {"form_token": token_in(client.get("/login?next=/%3Fq%3Dx").text), "name": "vera", "next": "/?q=x"}
        before = client.cookies[COOKIE]
        assert "wrong" in client.post("/login", data={**form, "password": "of olga"}).text
        assert client.get("/").status_code == 303
        done = client.post("/login", data={**form, "password": "of vera"})
        assert done.status_code == 303 and done.headers["location"] == "/?q=x"
        assert client.cookies[COOKIE] != before, "a session that was there before the password is worth nothing"
        page = client.get("/").text
        assert "vera (view)" in page
        assert client.post("/logout", data={"form_token": token_in(page)}).status_code == 303
        assert client.get("/").status_code == 303


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", ""])
def test_a_log_in_leads_to_no_other_site(users: Path, target: str) -> None:
    with client_of(VIEW, PasswordAccess(read_users(users))) as client:
        token = token_in(client.get("/login").text)
        form = {"form_token": token, "name": "vera", "password": "of vera", "next": target}
        assert client.post("/login", data=form).headers["location"] == "/"


def test_passwords_cannot_be_tried_without_end(users: Path) -> None:
    access = PasswordAccess(read_users(users))
    for _ in range(5):
        assert access.log_in("vera", "guess", "192.0.2.1") is None
    with pytest.raises(access_module.TooManyAttempts):
        access.log_in("vera", "of vera", "192.0.2.1")
    assert access.log_in("vera", "of vera", "192.0.2.2"), "the guesses of others lock nobody out"
    assert access.log_in("olga", "of olga", "192.0.2.1")


def test_a_session_ends_when_it_was_not_used(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = PasswordAccess(read_users(users))
    session = access.log_in("vera", "of vera", "192.0.2.1")
    assert session is not None and access.visitor(session, {}, "") == ("vera", Role.VIEW)
    later = time.monotonic() + access_module.IDLE_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert access.visitor(session, {}, "") is None


def test_the_header_of_a_proxy_counts_only_from_the_proxy() -> None:
    access = ProxyAccess("x-user", ["192.0.2.1"], ["olga"])
    assert access.visitor("", {"x-user": "olga"}, "192.0.2.1") == ("olga", Role.OPERATE)
    assert access.visitor("", {"x-user": "vera"}, "192.0.2.1") == ("vera", Role.VIEW)
    assert access.visitor("", {"x-user": "olga"}, "192.0.2.2") is None
    assert access.visitor("", {}, "192.0.2.1") is None
    with client_of(VIEW, access, base_url="http://console.example") as client:
        assert client.get("/", headers={"x-user": "olga"}).status_code == 401
        assert client.get("/static/console.css").status_code == 200


FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"origin": "https://evil.example"}, "form_token=TOKEN", 403),
        ({"origin": "null"}, "form_token=TOKEN", 403),
        ({"origin": "http://localhost:1"}, "form_token=TOKEN", 403),
        ({"sec-fetch-site": "cross-site"}, "form_token=TOKEN", 403),
        ({"sec-fetch-site": "same-site"}, "form_token=TOKEN", 403),
        ({"origin": LOCAL}, "form_token=forged", 403),
        ({"origin": LOCAL}, "", 403),
        ({"origin": LOCAL, "content-type": "text/plain"}, "form_token=TOKEN", 413),
        ({"origin": LOCAL, "content-type": "application/json"}, "{}", 413),
        ({"origin": LOCAL}, "form_token=TOKEN", 303),
        ({}, "form_token=TOKEN", 303),
    ],
)
def test_a_form_of_another_site_is_refused(headers: dict[str, str], body: str, status: int) -> None:
    access = OpenAccess(Role.OPERATE)
    with client_of(VIEW, access) as client:
        client.get("/")
        token = token_of(client, access)
        answer = client.post("/logout", content=body.replace("TOKEN", token), headers={**FORM, **headers})
        assert answer.status_code == status, answer.text


def routes_of(client: TestClient, method: str) -> list[str]:
    """The paths of the application."""
    return sorted(each.path for each in client.app.routes if method in (getattr(each, "methods", None) or ()))  # type: ignore[attr-defined]


def test_every_action_refuses_what_is_forged(users: Path) -> None:
    """Whatever it does: another site, no token, another's token, nobody's session, and a role that may only look."""
    for_viewers = {"/login", "/logout", "/dead/look", "/what"}
    access = PasswordAccess(read_users(users))
    with client_of(VIEW, access) as client:
        actions = routes_of(client, "POST")
        assert len(actions) == 11, "what is new has a case here by itself, and one in a browser"
        for path in actions:
            if path != "/login":
                client.cookies.clear()
                assert client.post(path, data={"form_token": "0" * 64}).status_code == 401, path
        for name, may in (("vera", for_viewers), ("olga", set(actions))):
            session, other = (access.log_in(name, f"of {name}", "192.0.2.1") for _ in range(2))
            assert session is not None and other is not None
            client.cookies.clear()
            client.cookies.set(COOKIE, session)
            token, others = (access.form_token(each, name) for each in (session, other))
            for path in actions:
                evil = client.post(path, data={"form_token": token}, headers={"origin": "https://evil.example"})
                assert evil.status_code == 403 and "another site" in evil.text, path
                assert client.post(path, data={"node": "NODE-1"}).status_code == 403, path
                assert client.post(path, data={"form_token": others}).status_code == 403, path
                if path not in may:
                    viewed = client.post(path, data={"form_token": token}, headers={"origin": LOCAL})
                    assert viewed.status_code == 403 and "your role is view" in viewed.text, path


def token_of(client: TestClient, access: OpenAccess) -> str:
    """The token that a page has which the client gets."""
    return access.form_token(client.cookies[COOKIE], "")


def test_a_token_is_worth_nothing_with_another_cookie() -> None:
    access = OpenAccess(Role.OPERATE)
    with client_of(VIEW, access) as client:
        client.get("/")
        token = token_of(client, access)
        client.cookies.clear()
        client.get("/")
        assert client.post("/logout", data={"form_token": token}).status_code == 403


def test_a_form_has_its_bounds() -> None:
    with client_of(VIEW, OpenAccess(Role.OPERATE)) as client:
        client.get("/")
        assert client.post("/logout", data={"x": "y" * 5_000_000}).status_code == 413
        assert client.post("/logout", data={f"f{n}": "" for n in range(501)}).status_code == 413


def test_the_overview_shows_what_is_known_and_only_what_has_changed_again() -> None:
    view = drawn(
        look({"NODE-1": BROKERS, "<b>": ("mq-a",)}), look({"NODE-1": ("mq-b",)}, {"mq-a": "connection refused"})
    )
    with client_of(view) as client:
        page = client.get("/").text
        assert "broker lost" in page and "connection refused" in page and "&lt;b&gt;" in page and "<b>" not in page
        fragment = {"HX-Request": "true"}
        assert client.get(f"/?seen={view.revision}", headers=fragment).status_code == 204
        again = client.get("/?seen=0", headers=fragment).text
        assert again.startswith('<div id="fleet"') and "<html" not in again
        assert "NODE-1" not in client.get("/?q=b").text.partition("<tbody>")[2]
        assert "NODE-1" in client.get("/?q=NODE-*").text.partition("<tbody>")[2]
