"""Results and errors as the texts of py-servicebus 2.x."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.compat.names import is_own_queue, node_queue
from servicebus.compat.texts import BAD_TOKEN, fault_from_text, fault_to_text, result_from_text, result_to_text
from servicebus.errors import EnvelopeError
from servicebus.wire.fault import Fault, error_from_fault


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ({"a": 1}, "{'a': 1}"),
        ([1.5, None], "[1.5, None]"),
        (None, "None"),
        (True, "True"),
        ("h\u00e9 \U0001f600 <&>  ", "h\u00e9 \U0001f600 <&>  "),
        (b"x", "b'x'"),
        ((1, 2), "(1, 2)"),
    ],
)
def test_a_result_is_told_in_the_words_of_2_19(value: object, text: str) -> None:
    assert result_to_text(value, "str") == text


def test_a_result_is_told_as_json_on_demand() -> None:
    assert result_to_text({"a": [1, None, True, "\u00e9"]}, "json") == '{"a":[1,null,true,"\\u00e9"]}'
    with pytest.raises(EnvelopeError, match="unencodable"):
        result_to_text(b"x", "json")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1.5e3", -1500.0),
        ('{"a":[1,null,true]}', {"a": [1, None, True]}),
        ("{'a': [1, None, True], 'b': (-1, 2.5)}", {"a": [1, None, True], "b": (-1, 2.5)}),
        ("b'x\\n'", b"x\n"),
        ("{1, 2}", {1, 2}),
        ("hello", "hello"),
        ("", ""),
        ("None", None),
        ("1 - 1", "1 - 1"),
        ("[-1, - 1]", "[-1, - 1]"),
        ("__import__('os')", "__import__('os')"),
        ("it''s", "it''s"),
        ("'\\d'", "'\\d'"),
        ("[" * 150 + "'a'" + "]" * 150 + "]", "[" * 150 + "'a'" + "]" * 150 + "]"),
        ("1" * 5000, "1" * 5000),
        ("\ud800", "\ud800"),
        ("{[1]: 2}", "{[1]: 2}"),
    ],
)
def test_a_text_is_read_as_json_or_literal_or_left_alone(text: str, value: object) -> None:
    assert result_from_text(text) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4)
        ),
        max_leaves=10,
    ).filter(lambda value: not isinstance(value, str))
)
def test_the_text_form_of_a_value_is_read_back(value: object) -> None:
    assert result_from_text(str(value)) == value


@given(st.text("-+~[](){},:'\"\\b 1e.x"))
def test_no_text_makes_the_reading_raise(text: str) -> None:
    result_from_text(text)


@pytest.mark.parametrize("piece", [", ", "[", "-", "1", "'", "1,", "((", "'a'", "\\'", "{'", "a.", "1+"])
def test_a_hostile_text_is_read_in_linear_time(piece: str) -> None:
    """Replies of version 1 carry no token: anybody may have written them."""
    started = time.process_time()
    result_from_text(piece * 20_000)
    assert time.process_time() - started < 2.0


def test_the_errors_of_2_19_are_recognised() -> None:
    unknown = fault_from_text("Cannot Find RPC Service: math.add", "math", "add")
    refused = fault_from_text("Token not valid!", "math", "add")
    assert unknown is not None
    assert refused is not None
    assert type(error_from_fault(unknown, "N.math.add")).__name__ == "UnknownService"
    error = error_from_fault(refused, "N.math.add")
    assert (type(error).__name__, getattr(error, "reason", None)) == ("CallRefused", "signature")


@pytest.mark.parametrize(
    "text", ["Token not valid", " Token not valid!", "Cannot Find RPC Service: math.sub", "token not valid!", ""]
)
def test_a_text_that_only_looks_like_an_error_is_a_result(text: str) -> None:
    assert fault_from_text(text, "math", "add") is None


def test_an_old_caller_learns_of_every_fault() -> None:
    assert fault_to_text(Fault("unknown-service", "whatever"), "c", "s") == "Cannot Find RPC Service: c.s"
    assert fault_to_text(Fault("ValueError", "no such row"), "c", "s") == "Service Error: ValueError: no such row"
    assert BAD_TOKEN == "Token not valid!"


@pytest.mark.parametrize(
    ("reply_to", "is_own"),
    [
        ("amq.gen-JzTY20BRgKO-HjmUJj0wLg", True),
        ("amq.rabbitmq.reply-to.g1h2AA5yZXBseUA", True),
        ("NODE-01", False),
        ("NODE-01.rpc", False),
        ("amq.direct", False),
        ("", False),
    ],
)
def test_only_queues_of_the_senders_own_are_answered_to(reply_to: str, is_own: bool) -> None:
    assert is_own_queue(reply_to) is is_own


def test_the_queue_bears_the_name_of_the_node() -> None:
    assert node_queue("NODE-01") == "NODE-01"
