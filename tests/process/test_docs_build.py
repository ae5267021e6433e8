"""The site of docs/ is built as bin/docs builds it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lxml import html

ROOT = Path(__file__).parents[2]
PAGE = """
A page
======

See `other.rst <other.rst#there>`_ and `the program <program.py>`_.
"""
OTHER = """
Another page
============

There
-----
"""


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(source), str(site)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT / "docs", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    commands = (tmp_path / "reference" / "commands.html").read_text()
    errors = (tmp_path / "reference" / "errors.html").read_text()
    assert "servicebus-doctor" in commands and "servicebus.errors.CallInterrupted" in errors
    links = html.parse(tmp_path / "sender.html").xpath("//article//a/@href")
    assert "journal.html" in links and not [link for link in links if link.endswith(".rst")]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    shutil.copytree(ROOT / "docs" / "_sphinx", folder / "_sphinx", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(folder / '_sphinx')!r})\nextensions = ['page_links']\nroot_doc = 'page'\n"
    )
    (folder / "page.rst").write_text(f":orphan:\n{PAGE}")
    (folder / "other.rst").write_text(f":orphan:\n{OTHER}")
    (folder / "program.py").write_text("")
    return folder


def test_a_link_to_a_file_is_one_to_its_page(pages: Path, tmp_path: Path) -> None:
    assert build(pages, tmp_path / "site").stderr == ""
    links = html.parse(tmp_path / "site" / "page.html").xpath("//div[@role='main']//p/a")
    assert [(link.get("href").partition("_downloads")[0], link.text_content()) for link in links] == [
        ("other.html#there", "There"),
        ("", "the program"),
    ]


@pytest.mark.parametrize(("wanted", "missing"), [("other.rst#there", "other.rst#here"), ("program.py", "absent.py")])
def test_a_link_that_leads_nowhere_fails(pages: Path, tmp_path: Path, wanted: str, missing: str) -> None:
    (pages / "page.rst").write_text(f":orphan:\n{PAGE.replace(f'<{wanted}>', f'<{missing}>')}")
    done = build(pages, tmp_path / "site")
    assert done.returncode != 0 and "page.rst:6: WARNING" in done.stderr
