"""What strangers write is shown escaped: it moves no cursor, hides nothing and reorders nothing."""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path

import pytest

from servicebus.wire.fault import describe as fault_describe
from servicebus.wire.printable import counted, describe, printable

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


@pytest.mark.parametrize(
    ("count", "words", "with_verb"),
    [
        (0, "0 messages", "0 messages wait"),
        (1, "1 message", "1 message waits"),
        (2, "2 messages", "2 messages wait"),
    ],
)
def test_a_count_and_its_noun_agree(count: int, words: str, with_verb: str) -> None:
    assert (counted(count, "message"), counted(count, "message", "wait")) == (words, with_verb)


def test_an_error_without_a_text_is_its_class_alone() -> None:
    assert describe(TimeoutError()) == fault_describe(TimeoutError()) == "TimeoutError"
    assert describe(TimeoutError("late")) == fault_describe(TimeoutError("late")) == "TimeoutError: late"


NOUNS = "messages|letters|calls|workers|brokers|hosts|records|ids|copies|answers|times|consumers|datagrams"
COUNTED = re.compile(rf"(\{{[^{{}}]*\}}|%d) ({NOUNS})\b")


def test_no_count_stands_before_a_plural_as_it_is() -> None:
    """ "1 messages": ``counted()`` says it, in all that users read. A repr is for us, and has what it likes."""
    root = Path(__file__).parents[2]
    found = []
    for folder in ("servicebus", "logging_service"):
        for file in (root / folder).rglob("*.py"):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                if (
                    COUNTED.search(line)
                    and 'f"<' not in line
                    and "counted(" not in line
                    and "ids or answers" not in line
                    and not re.search(r"\} answers (over|something) ", line)  # the verb
                ):
                    found.append(f"{file.relative_to(root)}:{number}: {line.strip()}")
    assert found == []
