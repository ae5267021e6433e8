"""Headers of copies, cut to what one frame holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.transport.frames import FRAME_HEAD, publish_frames, table_bytes, write_properties
from servicebus.transport.headerfit import fitted
from servicebus.wire import headers

REASONS = {headers.REASON: "ValueError", headers.HOST: "mq-a:5672", headers.DEAD_LETTER: "1700000000 1700000000 3 0"}
FRAME_MAX = (4096, 8192, 131072)


def header_frame(marks: dict[str, Any], frame_max: int) -> int:
    """The size of the header frame of a copy with *marks*, in bytes."""
    properties = write_properties(headers=marks, persistent=True, message_id="m" * 255)
    data = publish_frames(1, "", "q", True, *properties, b"", frame_max)
    method = 7 + FRAME_HEAD.unpack_from(data, 0)[2] + 1
    return 7 + int(FRAME_HEAD.unpack_from(data, method)[2]) + 1


def repeated(most: int) -> st.SearchStrategy[str]:
    """Texts of any length up to *most*, of few characters each: to draw each one of them takes long."""
    return st.tuples(st.text(max_size=20), st.integers(0, most // 20)).map(lambda drawn: drawn[0] * drawn[1])


texts = repeated(40_000) | st.integers(2_000, 20_000).map(lambda count: "\u20ac" * count)


@given(
    st.sampled_from(FRAME_MAX),
    texts,
    texts,
    st.dictionaries(st.text(min_size=1, max_size=20), repeated(9_000) | st.integers(), max_size=5),
)
def test_what_is_left_fits_and_says_why_the_message_is_dead(
    frame_max: int, trace: str, detail: str, own: dict[str, Any]
) -> None:
    marks = {**own, **REASONS, headers.TRACE: trace, headers.DETAIL: detail}
    kept = fitted(marks, frame_max)
    assert header_frame(kept, frame_max) <= frame_max
    assert {name: kept[name] for name in REASONS} == REASONS
    if table_bytes(marks) and header_frame(marks, 1 << 24) <= frame_max - 64:
        assert kept == marks


@pytest.mark.parametrize("frame_max", FRAME_MAX)
def test_the_end_of_a_trace_and_the_begin_of_a_detail_are_kept(frame_max: int) -> None:
    trace = "begin of the trace" + "x" * 150_000 + "end of the trace"
    kept = fitted({**REASONS, headers.TRACE: trace, headers.DETAIL: "what was wrong"}, frame_max)
    assert kept[headers.TRACE].startswith("\u2026")
    assert kept[headers.TRACE].endswith("end of the trace")
    assert len(kept[headers.TRACE]) > frame_max - 1000
    assert kept[headers.DETAIL] == "what was wrong"
    kept = fitted({**REASONS, headers.TRACE: trace, headers.DETAIL: "what was wrong" + "y" * 150_000}, frame_max)
    assert kept[headers.TRACE] == ""
    assert kept[headers.DETAIL].startswith("what was wrong")
    assert kept[headers.DETAIL].endswith("\u2026")


def test_the_senders_own_headers_go_last_the_largest_first() -> None:
    own = {"a": "x" * 10, "b": "y" * 5_000, "c": "z" * 2_000}
    kept = fitted({**own, **REASONS, headers.TRACE: "trace", headers.DETAIL: "detail"}, 4096)
    assert set(kept) == {"a", "c", *REASONS, headers.TRACE, headers.DETAIL}


def test_without_a_limit_all_is_kept() -> None:
    marks = {headers.TRACE: "x" * 200_000}
    assert fitted(marks, 0) == marks


@pytest.mark.parametrize("odd", [object(), 2**63, {"deep": object()}, [2**64]])
def test_what_cannot_be_encoded_is_left_out(odd: Any) -> None:
    assert fitted({**REASONS, "odd": odd}, 131072) == REASONS
