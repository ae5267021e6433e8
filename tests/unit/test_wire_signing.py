from __future__ import annotations

import hashlib
import hmac
import pickle
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_forms import canonical_event, sign_envelope

from servicebus.errors import SignatureError
from servicebus.wire.envelope import DIRECT_REPLY_TO, Envelope, Kind, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.signing import Keyring, canonical_bytes

UNTIMED = settings(deadline=None)  # other processes may have the cores
NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
KEYS = Keyring(["secret token"])
CALL = Envelope(
    id="0123456789abcdef-1",
    node="NODE-01",
    category="math",
    service="add",
    kind=Kind.CALL,
    sent_ms=NOW_MS,
    ttl_ms=5_000,
    reply=DIRECT_REPLY_TO,
    params=b"[1,2]",
)
OTHER_VALUES = {
    "id": "0123456789abcdef-2",
    "node": "NODE-02",
    "category": "mat",
    "service": "hadd",
    "kind": Kind.CONTROL,
    "sent_ms": NOW_MS + 1,
    "ttl_ms": 5_001,
    "reply": "",
    "params": b"[1,3]",
    "attempt": 2,
    "due_ms": NOW_MS + 1,
    "contract": "0123456789abcdef01234567",
    "context": '{"k":"v"}',
    "stream": "1,1",
}


def signed(envelope: Envelope, keys: Keyring = KEYS) -> Envelope:
    return replace(envelope, token=sign_envelope(keys, envelope))


@UNTIMED
@given(st.text(min_size=1), st.binary(max_size=300))
def test_a_token_is_the_hmac_of_the_standard_library(secret: str, text: bytes) -> None:
    """Of the secret as it is, also of one that is longer than a block of SHA-256."""
    try:
        key = secret.encode()
    except UnicodeEncodeError:
        return
    expected = hmac.new(key, canonical_bytes(b"domain", text), hashlib.sha256).hexdigest()
    assert Keyring([secret]).sign_bytes(b"domain", text).partition(":")[2] == expected


@UNTIMED
@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_no_two_lists_of_parts_share_their_canonical_bytes(one: list[bytes], other: list[bytes]) -> None:
    assert (canonical_bytes(b"d", *one) == canonical_bytes(b"d", *other)) == (one == other)


def test_parts_cannot_be_shifted_into_each_other() -> None:
    assert canonical_bytes(b"d", b"1:a", b"") != canonical_bytes(b"d", b"", b"1:a")
    assert canonical_bytes(b"d", b"ab", b"c") != canonical_bytes(b"d", b"a", b"bc")


def test_the_sender_s_own_envelope_verifies() -> None:
    KEYS.verify_envelope(signed(CALL))


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_the_token_covers_every_field(name: str) -> None:
    other: dict[str, Any] = {name: OTHER_VALUES[name]}
    forged = replace(signed(CALL), **other)
    with pytest.raises(SignatureError):
        KEYS.verify_envelope(forged)


def test_no_field_but_the_token_is_left_out() -> None:
    """Whoever adds a field to Envelope has to sign it: this test then asks for its other value above."""
    assert {field.name for field in fields(Envelope)} == {*OTHER_VALUES, "token"}


def test_names_are_signed_as_utf_8() -> None:
    envelope = replace(CALL, node="K\u00d6LN", params='"\u65e5"'.encode())
    assert b"5:K\xc3\x96LN" in canonical_event(envelope)
    KEYS.verify_envelope(signed(envelope))


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", "no token"),
        ("deadbeef:" + "0" * 64, "no key with the id 'deadbeef'"),
        (sign_envelope(KEYS, CALL)[:-1], "does not match"),
        (sign_envelope(KEYS, CALL).upper(), "no key with the id"),
        (sign_envelope(KEYS, CALL)[:9] + "0" * 64, "does not match"),
        (sign_envelope(KEYS, CALL)[:9] + "\u00e9" * 64, "ASCII"),
        (sign_envelope(KEYS, CALL) + "0", "does not match"),
    ],
)
def test_a_bad_token_is_refused(token: str, says: str) -> None:
    with pytest.raises(SignatureError) as refusal:
        KEYS.verify_envelope(replace(CALL, token=token))
    assert refusal.value.reason == "signature"
    assert says in str(refusal.value)


def test_keys_rotate_the_first_signs_and_all_verify() -> None:
    old, new = Keyring(["old"]), Keyring(["new"])
    both = Keyring(["new", "old"])
    both.verify_envelope(signed(CALL, old))
    both.verify_envelope(signed(CALL, new))
    new.verify_envelope(signed(CALL, both))
    with pytest.raises(SignatureError):
        old.verify_envelope(signed(CALL, both))


def test_a_reply_belongs_to_one_request_only() -> None:
    request, other = signed(CALL), signed(replace(CALL, params=b"[2,2]"))
    reply = Reply(CALL.id, KEYS.sign_reply(request.token, CALL.id, "ok", b"3", None), "ok", b"3")
    KEYS.verify_reply(reply, request.token)
    with pytest.raises(SignatureError):
        KEYS.verify_reply(reply, other.token)


@pytest.mark.parametrize(
    "forged",
    [
        {"id": "0123456789abcdef-2"},
        {"status": "ok", "fault": None},
        {"message": b"3"},
        {"fault": Fault("busx", "full", "trace", 50)},
        {"fault": Fault("busy", "ful", "ltrace", 50)},
        {"fault": Fault("busy", "full", "tracf", 50)},
        {"fault": Fault("busy", "full", None, 50)},
        {"fault": Fault("busy", "full", "trace", 51)},
        {"fault": Fault("busy", "full", "trace", None)},
        {"fault": Fault("busy", "full", "trace", 50, None, "[1]")},
        {"fault": Fault("busy", "full", "trace", 50, 1)},
    ],
)
def test_the_token_of_a_reply_covers_every_field(forged: dict[str, Any]) -> None:
    fault = Fault("busy", "full", "trace", 50)
    request = signed(CALL).token
    reply = Reply(CALL.id, KEYS.sign_reply(request, CALL.id, "fault", b"", fault), "fault", b"", fault)
    KEYS.verify_reply(reply, request)
    with pytest.raises(SignatureError):
        KEYS.verify_reply(replace(reply, **forged), request)


def test_a_token_made_for_one_use_is_worth_nothing_in_another() -> None:
    token = KEYS.sign_bytes(b"servicebus/2 log", b"record")
    KEYS.verify_bytes(token, b"servicebus/2 log", b"record")
    for domain, part in ((b"servicebus/2 event", b"record"), (b"servicebus/2 log", b"recore")):
        with pytest.raises(SignatureError):
            KEYS.verify_bytes(token, domain, part)


def test_secrets_are_not_shown_and_not_pickled() -> None:
    keys = Keyring(["hunter2", "hunter1"])
    ids = [hashlib.sha256(b"servicebus key id\0" + secret).hexdigest()[:8] for secret in (b"hunter2", b"hunter1")]
    assert repr(keys) == f"<Keyring signs with {ids[0]}, knows {ids[0]}, {ids[1]}>"
    with pytest.raises(TypeError, match="secrets"):
        pickle.dumps(keys)


@pytest.mark.parametrize("secrets", [[], [""], ["good", ""], "one text"])
def test_a_keyring_needs_secrets(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="Keyring"):
        Keyring(secrets)
