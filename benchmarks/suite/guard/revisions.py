"""A revision of this repository in a virtual environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.suite.settings import ROOT

INSTALLED = "installed"
"""A file in the environment, made when it is complete."""


def resolve(revision: str) -> str:
    """Its full name.

    Raises:
        SystemExit: there is no such revision.
    """
    done = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if done.returncode:
        raise SystemExit(f"{revision}: no such revision")
    return done.stdout.strip()


def last_release() -> str:
    """The last tag before this commit.

    Raises:
        SystemExit: there is none.
    """
    done = _git("describe", "--tags", "--abbrev=0", "HEAD^")
    if done.returncode:
        raise SystemExit("no release is tagged before this commit; name a revision with --against")
    return done.stdout.strip()


def has_changes() -> bool:
    """Something of servicebus is not committed."""
    return bool(_git("status", "--porcelain", "--", "servicebus").stdout.strip())


def python_of(commit: str, folder: Path) -> Path:
    """The interpreter of an environment in *folder* that has *commit* installed; made if it is not there yet.

    Raises:
        SystemExit: it cannot be installed.
    """
    home = folder / commit[:12]
    python = home / "bin" / "python"
    if (home / INSTALLED).exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    with tempfile.TemporaryDirectory(prefix="guard-") as temporary:
        tree = Path(temporary) / "tree"
        try:
            _must(_git("worktree", "add", "--detach", str(tree), commit))
            _must(_run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(tree)]))
        finally:
            _git("worktree", "remove", "--force", str(tree))
    # A process that compiles what it imports keeps megabytes of it: the side that was installed last would seem larger.
    # The status says nothing: packages may carry samples that do not compile.
    _run([str(python), "-m", "compileall", "-q", str(home / "lib")])
    (home / INSTALLED).touch()
    return python


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(["git", "-C", str(ROOT), *arguments])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _must(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise SystemExit(f"failed: {' '.join(done.args)}")
