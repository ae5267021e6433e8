"""``servicebus web``: what it refuses before it listens, and the file of its users."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from servicebus.cli.main import servicebus
from servicebus.web.users import is_password, read_users


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ops.yaml"
    path.write_text('hosts: ["127.0.0.1:1"]\nsecret_token: "a secret that is long enough"\n')
    return path


def web(*options: str, **how: object) -> Result:
    return CliRunner().invoke(servicebus, ["web", *options], **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--host", "0.0.0.0"], "must know its users"),  # noqa: S104 - it is refused
        (["--host", "192.0.2.1", "--role", "operate"], "must know its users"),
        (["--host", "::"], "must know its users"),
        (["--role", "view", "--proxy-header", "X", "--trusted-proxy", "::1"], "exclude each other"),
        (["--proxy-header", "X-User"], "needs --trusted-proxy"),
        (["--operator", "anna"], "needs --trusted-proxy"),
        (["--proxy-header", "X", "--trusted-proxy", "proxy.example"], "no IP address"),
        (["--tls-cert", "cert.pem"], "go together"),
        (["--set-user", "anna:view"], "needs --users"),
        (["--users", "u", "--set-user", "anna:root"], "NAME:view or NAME:operate"),
    ],
)
def test_what_cannot_be_meant_is_refused(file: Path, options: list[str], complaint: str) -> None:
    done = web("-c", str(file), *options)
    assert done.exit_code == 2 and complaint in done.output


def test_users_that_are_not_there_are_named(file: Path, tmp_path: Path) -> None:
    done = web("-c", str(file), "--users", str(tmp_path / "none"))
    assert done.exit_code == 3 and "cannot be read" in done.output


def test_a_port_or_a_folder_that_cannot_be_used_is_named(file: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = web("-c", str(file), "--port", port, "--history", str(tmp_path / "history"))
    assert done.exit_code == 1 and f"cannot listen on 127.0.0.1:{port}" in done.output
    (tmp_path / "plain").touch()
    done = web("-c", str(file), "--port", "0", "--history", str(tmp_path / "plain" / "history"))
    assert done.exit_code == 1 and "cannot keep" in done.output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_as_soon_as_it_listens_stops_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    before = signal.getsignal(signum)
    monkeypatch.setattr("servicebus.cli.web.note", lambda _line: signal.raise_signal(signum))
    done = web("-c", str(file), "--port", "0", "--history", str(tmp_path / "history"))
    assert done.exit_code == 0, done.output
    assert signal.getsignal(signum) is before


def test_a_user_is_added_with_a_password_that_is_asked_for(tmp_path: Path) -> None:
    users = tmp_path / "users"
    done = web("--users", str(users), "--set-user", "anna:operate", input="secret\nsecret\n")
    assert done.exit_code == 0 and "secret" not in done.output
    assert is_password("secret", read_users(users)["anna"].hash)
