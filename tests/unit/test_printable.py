"""What strangers write is shown escaped: it moves no cursor, hides nothing and reorders nothing."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from servicebus.wire.printable import printable

DANGEROUS = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_every_control_format_and_separator_character_of_unicode_is_escaped() -> None:
    for char in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(char) in DANGEROUS:
            shown = printable(char)
            assert shown.startswith("\\") and shown.isascii() and shown.isprintable(), hex(ord(char))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ('plain text, ä 漢 🙂 \\ "', 'plain text, ä 漢 🙂 \\ "'),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb\nc\td\x7f", "a\\rb\\nc\\td\\x7f"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("a\u2066b\u2069\u200b\ufeff", "a\\u2066b\\u2069\\u200b\\ufeff"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("lone \udc80", "lone \\udc80"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_text_is_shown_with_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_feeds_alone_are_kept_where_text_is_shown_as_lines() -> None:
    assert printable("a\nb\r\n\x1b\u2028", keep_newlines=True) == "a\nb\\r\n\\x1b\\u2028"
