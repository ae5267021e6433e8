"""What commands write into files."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from servicebus.cli import output


def test_a_device_stays_what_it_is_and_a_link_leads_to_its_file(tmp_path: Path) -> None:
    assert not output.write_file("/dev/null", "nothing")
    assert Path("/dev/null").is_char_device()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    output.write_file(str(tmp_path / "link"), "text")
    assert (tmp_path / "file").read_text() == "text" and (tmp_path / "link").is_symlink()
    with pytest.raises(click.BadParameter, match="missing"):
        output.write_file(str(tmp_path / "missing" / "file"), "text")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link"]
