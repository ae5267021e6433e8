"""What the peers need and do not bring along: virtual environments, a compiled floor, a package of the system."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from benchmarks.suite.peers import PROGRAMS, Peer
from benchmarks.suite.settings import ROOT

HOME = Path(os.environ.get("SERVICEBUS_PEERS", ROOT / ".venv" / "peers"))
_HEADER = Path("/usr/include/amqp.h")
_HEADER_MAY_LIE_IN = (_HEADER, Path("/usr/include/rabbitmq-c/amqp.h"), Path("/usr/local/include/amqp.h"))


class Missing(Exception):
    """Something that a peer needs is not here; the text says what to do about it."""


def usable(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Those of *peers* that can run, everything made that they need; and why the others cannot."""
    ready, left_out = [], {}
    for peer in peers:
        try:
            command(peer, "server")
            ready.append(peer)
        except Missing as error:
            left_out[peer.name] = str(error)
            print(f"bench: {peer.name} is left out: {error}", file=sys.stderr)
    return ready, left_out


def command(peer: Peer, role: str) -> list[str]:
    """How to run a peer; what it needs is made at the first use.

    Raises:
        Missing: it cannot be made here.
    """
    variant = [peer.variant] if peer.variant else []
    if peer.program.endswith(".c"):
        return [str(_compiled(PROGRAMS / peer.program)), role, *variant]
    python = peer.python or (interpreter(peer.venv) if peer.venv else Path(sys.executable))
    return [str(python), str(PROGRAMS / peer.program), role, *variant]


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """What is measured, by peer."""
    found = {}
    for peer in peers:
        if peer.distribution:
            pinned = (PROGRAMS / "requirements" / f"{peer.venv}.txt").read_text()
            found[peer.name] = _pin(pinned, peer.distribution)
        elif peer.program.endswith(".c"):
            found[peer.name] = f"librabbitmq {_librabbitmq()}"
    return found


def _pin(requirements: str, distribution: str) -> str:
    lines = (line.partition("==") for line in requirements.splitlines())
    return next((version for name, _, version in lines if name.lower() == distribution), "unknown")


def _librabbitmq() -> str:
    with suppress(FileNotFoundError):
        done = subprocess.run(
            ["pkg-config", "--modversion", "librabbitmq"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return "unknown"


def interpreter(name: str) -> Path:
    """That of the virtual environment made from requirements/NAME.txt.

    Raises:
        Missing: it cannot be made here.
    """
    requirements = PROGRAMS / "requirements" / f"{name}.txt"
    folder = HOME / name
    stamp, wanted = folder / ".installed", _fingerprint(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        _tell(f"making the virtual environment {folder}")
        venv.create(folder, with_pip=True, symlinks=True)
        _run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check",
             "-r", str(requirements))  # fmt: skip
        stamp.write_text(wanted)
    if name == "py_servicebus" and shutil.which("ping") is None:
        _install("iputils-ping", "its watcher pings the brokers' hosts")
    return folder / "bin" / "python"


def _compiled(source: Path) -> Path:
    program = HOME / source.stem
    stamp, wanted = HOME / f".{source.stem}", _fingerprint(source)
    if stamp.exists() and stamp.read_text() == wanted and program.exists():
        return program
    if shutil.which("cc") is None:
        _install("gcc", f"{source.name} is compiled with cc")
    if not any(header.exists() for header in _HEADER_MAY_LIE_IN):
        _install("librabbitmq-dev", f"{source.name} is written for librabbitmq")
    HOME.mkdir(parents=True, exist_ok=True)
    _run("cc", "-O2", "-Wall", "-o", str(program), str(source), "-lrabbitmq")
    stamp.write_text(wanted)
    return program


def _install(package: str, why: str) -> None:
    """By root's apt-get; else, or where there is none, Missing says what to install."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"please install the package {package} ({why})")
    _tell(f"apt-get install {package}")
    _run("apt-get", "update")
    _run("apt-get", "install", "--yes", "--no-install-recommends", package)


def _run(*arguments: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "; ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise Missing(f"{' '.join(arguments[:4])} ... failed: {last}")


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes() + sys.version.encode()).hexdigest()


def _tell(text: str) -> None:
    Console(stderr=True).print(f"bench: {text}", highlight=False)
