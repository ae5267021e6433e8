"""Where the RabbitMQ programs are, a short code path for them, and what loads their code at once."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from servicebus.errors import ServiceBusError

__all__ = ["BrokerProgramMissing", "find_broker_program", "find_epmd", "make_lean_home", "write_preload"]

# The scripts that packages put into /usr/sbin change to the user rabbitmq and to the system's folders, or refuse to
# run at all; those in RabbitMQ's own folder do as asked.
_OWN_FOLDERS = (
    Path("/usr/lib/rabbitmq/bin"),
    Path("/opt/rabbitmq/sbin"),
    Path("/opt/homebrew/opt/rabbitmq/sbin"),
    Path("/usr/local/opt/rabbitmq/sbin"),
)
_WRAPPER = "rabbitmq-script-wrapper"
_OTP = ("kernel", "stdlib", "compiler", "tools", "syntax_tools", "xmerl", "sasl", "os_mon", "inets", "asn1")
_PRELOAD = """\
Read = fun(App) ->
    case code:where_is_file(atom_to_list(App) ++ ".app") of
        non_existing -> {[], []};
        Path ->
            {ok, [{application, _, Terms}]} = file:consult(Path),
            {proplists:get_value(modules, Terms, []), proplists:get_value(applications, Terms, [])}
    end
end,
All = fun Go([], _, Modules) -> Modules;
          Go([App | Rest], Seen, Modules) ->
              case lists:member(App, Seen) of
                  true -> Go(Rest, Seen, Modules);
                  false -> {Own, Needed} = Read(App), Go(Needed ++ Rest, [App | Seen], Own ++ Modules)
              end
      end,
code:ensure_modules_loaded(All([%s], [], [])).
"""


class BrokerProgramMissing(ServiceBusError):
    """Raised when RabbitMQ, or a part of Erlang that it needs, is not installed; the text names the package."""

    def __init__(self, program: str):
        super().__init__(
            f"no {program} program found: install the package rabbitmq-server "
            "(Debian, Ubuntu: apt-get install rabbitmq-server; Fedora: dnf install rabbitmq-server; "
            "elsewhere: https://www.rabbitmq.com/docs/download), or set SERVICEBUS_RABBITMQ_SERVER to its path"
        )
        self.program = program


def find_broker_program() -> Path:
    """The path of RabbitMQ's own ``rabbitmq-server`` script, never that of a package's wrapper around it.

    ``SERVICEBUS_RABBITMQ_SERVER`` in the environment overrides the search.

    Raises:
        BrokerProgramMissing: nothing suitable was found.
    """
    chosen = os.environ.get("SERVICEBUS_RABBITMQ_SERVER")
    folders = [Path(chosen).parent] if chosen else [*_OWN_FOLDERS, *_folders_on_path()]
    for folder in folders:
        script = folder / "rabbitmq-server"
        if os.access(script, os.X_OK) and script.resolve().name != _WRAPPER:
            return script
    raise BrokerProgramMissing("rabbitmq-server")


def find_epmd() -> Path:
    """The path of ``epmd``, Erlang's name server, which every node needs.

    Raises:
        BrokerProgramMissing: it is neither on PATH nor beside ``erl``.
    """
    if found := shutil.which("epmd"):
        return Path(found)
    if erl := shutil.which("erl"):
        for candidate in Path(erl).resolve().parent.parent.glob("erts-*/bin/epmd"):
            return candidate
    raise BrokerProgramMissing("epmd")


def make_lean_home(script: Path, home: Path, plugins: Sequence[str] = ()) -> Path | None:
    """Make *home* a RabbitMQ home that holds the broker, *plugins* and what they depend on; give its ``sbin``.

    Erlang looks for each module in every folder of its code path until it finds it, through a file server in another
    thread. Without the 40 folders of plug-ins that stay off, a node starts in 60 % of the time (3 s for 5 s).
    ``None`` if the installation is not laid out as expected: start it as it is, then.
    """
    original = script.resolve().parent.parent
    needed = _dependencies(original / "plugins", "rabbit", plugins)
    # RabbitMQ's scripts do not quote their own path.
    if not needed or not (original / "sbin").is_dir() or any(map(str.isspace, str(home))):
        return None
    (home / "plugins").mkdir(parents=True, exist_ok=True)
    links = {home / "plugins" / folder.name: folder for folder in needed}
    links |= {home / name: original / name for name in ("sbin", "escript") if (original / name).is_dir()}
    for link, target in links.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return home / "sbin"


def write_preload(path: Path, plugins: Sequence[str] = ()) -> str:
    """Write to *path* what loads the modules of the broker and of *plugins* at once; give Erlang's flags to run it.

    While it starts, RabbitMQ asks each module of its applications for its attributes. So all 900 are loaded, one by
    one, and each is entered in tables that grow: two fifths of the CPU time of a start (3.7 s, and 2.3 in one step).
    What cannot be loaded here is loaded, or missed, where it is needed. Empty flags if they could not name *path*.
    """
    path.write_text(_PRELOAD % ", ".join(["rabbit", *plugins, *_OTP]))
    return "" if re.search(r"""[\s"'\\]""", str(path)) else f'-eval file:eval(\\"{path}\\").'


def _folders_on_path() -> list[Path]:
    found = shutil.which("rabbitmq-server", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    return [Path(found).parent, Path(found).resolve().parent] if found else []


def _dependencies(plugins: Path, root: str, others: Sequence[str]) -> list[Path]:
    """The folders of *root*, *others* and all they depend on that lies in *plugins*; empty if *root* does not."""
    found: dict[str, Path] = {}
    # These are called by scripts and by the start, without being listed as applications.
    waiting = [root, "cuttlefish", "getopt", *others]
    while waiting:
        name = waiting.pop()
        if name in found or (app_file := _app_file(plugins, name)) is None:
            continue
        found[name] = app_file.parent.parent
        waiting += _applications(app_file.read_text(encoding="utf-8", errors="replace"))
    return list(found.values()) if root in found else []


def _app_file(plugins: Path, name: str) -> Path | None:
    return next(iter(plugins.glob(f"{name}-*/ebin/{name}.app")), None)


def _applications(app_text: str) -> list[str]:
    """Every application that an Erlang ``.app`` file names as needed."""
    names: list[str] = []
    for listed in re.findall(r"\{\s*(?:included_|optional_)?applications\s*,\s*\[([^\]]*)\]", app_text):
        names += re.findall(r"[a-z]\w*", listed)
    return names
