"""``servicebus web``: the console of the fleet, for a browser."""

from __future__ import annotations

import ipaddress
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import TEXT, config_source
from servicebus.cli.output import note, warn
from servicebus.configuration import Configuration

if TYPE_CHECKING:
    from servicebus.web.access import Access

PORT = 8480
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@config_source(required=False)
@click.option("--host", type=TEXT, default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any free one.")
@click.option("--role", type=click.Choice(["view", "operate"]), help="Of all users of this machine. Default: view.")
@click.option("--users", type=_FILE, metavar="FILE", help="Ask for a password; the users are in FILE.")
@click.option("--set-user", type=TEXT, metavar="NAME:ROLE", help="Add a user to --users FILE, or change one, and end.")
@click.option("--proxy-header", type=TEXT, metavar="NAME", help="The header in which a reverse proxy names the user.")
@click.option("--trusted-proxy", "proxies", multiple=True, metavar="ADDRESS", help="Where that header is believed.")
@click.option("--operator", "operators", type=TEXT, multiple=True, metavar="NAME", help="A user of it who may operate.")
@click.option("--history", type=_FILE, metavar="FILE", help="Keep the timeline here. Default: the state folder.")
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Serve HTTPS with this certificate.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key.")
@click.option("--behind-tls", is_flag=True, help="A reverse proxy serves HTTPS: browsers send the cookie only there.")
@click.pass_context
def web(ctx: click.Context, /, configuration: Configuration | None, **chosen: Any) -> None:
    """Serve the console: the fleet over all brokers in a browser, until a signal stops it.

    It listens on this machine alone unless it knows its users, by --users FILE or by --proxy-header NAME with
    --trusted-proxy ADDRESS. Needs pip install servicebus-failover[web].

    Example: servicebus web -c conf/agent.yaml --users users --set-user anna:operate
    """
    try:
        from servicebus.web.history import history_file
        from servicebus.web.server import ConsoleAddress, serve
    except ImportError as error:
        raise Failure("MissingExtra", str(error), ExitCode.FAILED, as_json=False) from error

    if chosen["set_user"] is not None:
        _set_user(chosen["users"], chosen["set_user"])
        return
    if configuration is None:
        raise click.UsageError("no configuration: name it by -c FILE, or $SERVICEBUS_CONFIG")
    if (chosen["tls_cert"] is None) != (chosen["tls_key"] is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    access = _access(chosen)
    if not (_is_loopback(chosen["host"]) or access.knows_users):
        raise click.UsageError(
            f"off this machine ({chosen['host']}) the console must know its users: "
            "--users FILE, or --proxy-header NAME and --trusted-proxy ADDRESS"
        )
    is_secure = chosen["behind_tls"] or chosen["tls_cert"] is not None
    if access.has_login and not (is_secure or _is_loopback(chosen["host"])):
        warn("passwords and cookies travel without TLS: --tls-cert, or a reverse proxy and --behind-tls")
    address = ConsoleAddress(chosen["host"], chosen["port"], chosen["tls_cert"], chosen["tls_key"])
    history, told = chosen["history"] or history_file(), lambda url: note(f"the console is on {url}")
    try:
        serve(configuration, access, address, history, is_secure=is_secure, on_open=told)
    except sqlite3.Error as error:
        raise Failure("HistoryFailed", f"{history}: {error}", ExitCode.FAILED, as_json=False) from error
    except OSError as error:
        what = f"listen on {chosen['host']}:{chosen['port']}" if error.filename is None else f"keep {error.filename}"
        message = f"cannot {what}: {error.strerror or error}"
        raise Failure("ListenFailed", message, ExitCode.FAILED, as_json=False) from error


def _access(chosen: dict[str, Any]) -> Access:
    from servicebus.web.access import OpenAccess, PasswordAccess, ProxyAccess
    from servicebus.web.users import Role, read_users

    users, header, proxies, role = (chosen[name] for name in ("users", "proxy_header", "proxies", "role"))
    if (users is not None) + (header is not None) + (role is not None) > 1:
        raise click.UsageError("--users, --proxy-header and --role exclude each other")
    if bool(header) != bool(proxies) or (chosen["operators"] and not header):
        raise click.UsageError("--proxy-header needs --trusted-proxy, and --trusted-proxy and --operator need it")
    if users is not None:
        return PasswordAccess(read_users(users))
    if header is not None:
        return ProxyAccess(header.lower(), [_address(each) for each in proxies], chosen["operators"])
    return OpenAccess(Role(role or "view"))


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no IP address", param_hint="--trusted-proxy") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _set_user(path: Path | None, text: str) -> None:
    from servicebus.web.users import Role, set_user

    name, _, role = text.partition(":")
    if path is None:
        raise click.UsageError("--set-user needs --users FILE")
    if role not in list(Role):
        raise click.BadParameter("write NAME:view or NAME:operate", param_hint="--set-user")
    password = os.environ.get("SERVICEBUS_WEB_PASSWORD") or click.prompt(
        f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True
    )
    try:
        set_user(path, name, Role(role), password)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set-user") from error
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror or error}", param_hint="--users") from error
    note(f"{name} may {role}; a console that runs knows it from its next start on")
