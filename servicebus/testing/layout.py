"""The folder of one private broker: what lies in it, and the environment that keeps the broker inside it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servicebus.testing.ports import LOOPBACK, free_ports, port_or_another
from servicebus.testing.processes import MARK, marked_processes
from servicebus.testing.program import make_lean_home, write_preload

__all__ = ["Family", "NodeFolder", "make_erlang_home"]

_FIRST_ERRORS = 12
_LAST_LINES = 12
_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
# Few threads, no spinning: a test machine runs several brokers and the programs under test on two cores.
_SERVER_ARGUMENTS = f"+S 2:2 +SDcpu 1:1 +SDio 2 {_LOOPBACK_ONLY}"


@dataclass(frozen=True)
class Family:
    """What the members of a cluster share: the Erlang cookie in *home*, and an epmd that finds them by their names."""

    home: Path
    epmd_port: int
    settings: str = ""
    """More terms of the application ``rabbit`` for its ``advanced.config``, each with a comma in front."""
    server_arguments: str = ""


class NodeFolder:
    """Paths, ports and environment of one node. The ports are chosen once and remembered in ``node.json``."""

    def __init__(
        self,
        path: Path,
        node_name: str,
        host: str = LOOPBACK,
        family: Family | None = None,
        wanted_port: int | None = None,
    ):
        self._wanted_port = wanted_port
        self.path = path.absolute()
        self.node_name = node_name
        self.host = host
        self.family = family
        self.home = family.home if family else self.path / "home"
        self._first_flags = ""
        self.pid = 0
        """The pid of the broker as far as this folder knows; 0 if it has none."""
        self._load()

    @property
    def log_path(self) -> Path:
        return self.path / "log" / "broker.log"

    def prepare(self, server_script: Path, rabbitmq_conf: str, plugins: Sequence[str] = ()) -> None:
        """Write what the broker reads at its start."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(exist_ok=True)
        make_erlang_home(self.home)
        (self.path / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        listener = f'{{tcp_listeners, [{{"{self.host}", {self.port}}}]}}'
        more = self.family.settings if self.family else ""
        (self.path / "advanced.config").write_text(f"[{{rabbit, [{listener}{more}]}}].\n")
        # Without this file the broker starts a little faster: it need not be translated.
        if rabbitmq_conf:
            (self.path / "rabbitmq.conf").write_text(rabbitmq_conf.rstrip() + "\n")
        # A broker that starts again has a log of its own start, so that a failure shows the right lines.
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_suffix(".log.old"))
        make_lean_home(server_script, self.path / "lean", plugins)
        self._first_flags = write_preload(self.path / "preload.eval", plugins)

    def environment(self) -> dict[str, str]:
        """For the broker, its epmd, and every program that talks to it through Erlang."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        inherited.pop("NOTIFY_SOCKET", None)
        folder = str(self.path)
        more = self.family.server_arguments if self.family else ""
        own = {
            MARK: folder,
            "HOME": str(self.home),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/rabbitmq-env.conf",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONFIG_FILES": f"{folder}/conf.d",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_SCHEMA_DIR": f"{folder}/schema",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_FEATURE_FLAGS_FILE": f"{folder}/feature_flags",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_LOGS": str(self.log_path),
            "RABBITMQ_PID_FILE": f"{folder}/rabbitmq.pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _SERVER_ARGUMENTS + (f" {more}" if more else ""),
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
            # The script then replaces itself by the Erlang machine: our child is the broker, not a shell around it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        if (self.path / "lean" / "sbin").is_dir():
            own["RABBITMQ_SCRIPTS_DIR"] = f"{folder}/lean/sbin"
        return inherited | own

    def server_environment(self) -> dict[str, str]:
        """For the broker alone, once it is prepared."""
        flags = {"ERL_AFLAGS": self._first_flags} if self._first_flags else {}  # read before "-s rabbit boot"
        return self.environment() | flags

    def save_pid(self, pid: int) -> None:
        """Remember the broker's pid, and the ports, for a later process."""
        self.pid = pid
        known = {"port": self.port, "epmd_port": self.epmd_port, "dist_port": self.dist_port, "pid": pid}
        (self.path / "node.json").write_text(json.dumps(known))

    def log_tail(self) -> str:
        """What matters of what the broker wrote: its log, or what it said before it could open one."""
        for path in (self.log_path, self.path / "start.out", self.path / "epmd.out"):
            with contextlib.suppress(OSError):
                if lines := path.read_text(errors="replace").splitlines():
                    return "\n".join([f"--- {path}", *_telling(lines)])
        return ""

    def _load(self) -> None:
        try:
            known = json.loads((self.path / "node.json").read_text())
        except FileNotFoundError:
            self.port, self.epmd_port, self.dist_port = free_ports(3)
            if self._wanted_port is not None:
                self.port = port_or_another(self._wanted_port)
            if self.family:
                self.epmd_port = self.family.epmd_port
            return
        self.port, self.epmd_port, self.dist_port = known["port"], known["epmd_port"], known["dist_port"]
        # An old pid may belong to another process by now.
        self.pid = known["pid"] if known["pid"] in marked_processes(self.path) else 0


def make_erlang_home(home: Path) -> None:
    """Make the folder with the cookie that lets these Erlang nodes, and no others, talk to each other."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    cookie = home / ".erlang.cookie"
    try:
        fd = os.open(cookie, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    except FileExistsError:
        found = cookie.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            who = "it is not a file that only this user can read"
            raise RuntimeError(f"the Erlang cookie {cookie} is not believed: {who}; remove it") from None
    else:
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(16))


def _telling(lines: list[str]) -> list[str]:
    """The last lines, and before them the first errors: Erlang writes the cause first and a page of reports after."""
    last = lines[-_LAST_LINES:]
    errors = [line for line in lines[:-_LAST_LINES] if "[error]" in line and not line.endswith("> ")]
    return [*errors[:_FIRST_ERRORS], "...", *last] if errors else last
