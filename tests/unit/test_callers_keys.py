"""Keys of callers: what each verifies and signs, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_forms import sign_envelope

from servicebus.errors import SignatureError
from servicebus.wire.envelope import DIRECT_REPLY_TO, Envelope, Kind, Reply, callers_id
from servicebus.wire.signing import Keyring

BUS, SHOP, OLD, AUDIT = "secret of the bus", "key of shop", "former key of shop", "key of audit"
NODE = Keyring([BUS], {"shop": [SHOP, OLD], "audit": [AUDIT]})
CALL = Envelope(
    "0123456789abcdef-1", "NODE-01", "math", "add", Kind.CALL, 1_700_000_000_000, 5_000, DIRECT_REPLY_TO, b"1"
)


def signed(secret: str) -> Envelope:
    return replace(CALL, token=sign_envelope(Keyring([secret]), CALL))


def reply_of(keyring: Keyring, token: str) -> Reply:
    return Reply(CALL.id, keyring.sign_reply(token, CALL.id, "ok", b"3", None), "ok", b"3")


@pytest.mark.parametrize(("secret", "caller"), [(BUS, ""), (SHOP, "shop"), (OLD, "shop"), (AUDIT, "audit")])
def test_the_key_says_who_has_signed(secret: str, caller: str) -> None:
    assert NODE.verify_envelope(signed(secret)) == caller
    assert NODE.caller_of(signed(secret).token) == caller


@pytest.mark.parametrize("secret", [BUS, SHOP, OLD, AUDIT])
def test_a_reply_is_signed_with_the_key_of_its_request(secret: str) -> None:
    """So its caller needs no other key to verify it, and can forge none that another would believe."""
    token = signed(secret).token
    reply = reply_of(NODE, token)
    Keyring([secret]).verify_reply(reply, token)
    for other in {BUS, SHOP, OLD, AUDIT} - {secret}:
        with pytest.raises(SignatureError):
            Keyring([other]).verify_reply(reply, token)
        forged = replace(
            reply, token=f"{Keyring([secret]).key_id}:{Keyring([other]).sign_reply('', '', '', b'', None)[9:]}"
        )
        with pytest.raises(SignatureError):
            Keyring([secret]).verify_reply(forged, token)


def test_a_reply_by_another_key_of_ours_is_none() -> None:
    """A former key that leaked, and that is accepted still, must not answer what was signed with the present one."""
    both = Keyring([SHOP, OLD])
    token = signed(SHOP).token
    with pytest.raises(SignatureError, match="made with key"):
        both.verify_reply(reply_of(Keyring([OLD]), token), token)
    both.verify_reply(reply_of(both, token), token)


@pytest.mark.parametrize("secret", [SHOP, OLD, AUDIT])
def test_the_key_of_a_caller_signs_nothing_but_requests(secret: str) -> None:
    """What workers sign for themselves, such as requeue tickets, no caller can make."""
    with pytest.raises(SignatureError):
        NODE.verify_bytes(Keyring([secret]).sign_bytes(b"servicebus/2 requeue", b"x"), b"servicebus/2 requeue", b"x")
    assert NODE.sign_bytes(b"d", b"x") == Keyring([BUS]).sign_bytes(b"d", b"x")
    with pytest.raises(SignatureError):  # nor does the node's own Sender take it for its own
        NODE.verify_reply(reply_of(Keyring([secret]), signed(secret).token), signed(secret).token)


@pytest.mark.parametrize("token", ["", "deadbeef:00", "\u00e9" * 73, "deadbeef"])
def test_whose_key_it_is_must_be_known(token: str) -> None:
    with pytest.raises(SignatureError):
        NODE.caller_of(token)


@pytest.mark.parametrize(
    "callers", [{"shop": [BUS]}, {"shop": [SHOP], "audit": [SHOP]}, {"shop": [SHOP], "audit": [AUDIT, SHOP]}]
)
def test_one_key_is_of_one_caller(callers: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="make another one"):
        Keyring([BUS], callers)


def test_the_same_key_twice_is_one() -> None:
    assert Keyring([BUS, BUS]).key_ids == Keyring([BUS]).key_ids
    assert Keyring([BUS], {"shop": [SHOP, SHOP]}).verify_envelope(signed(SHOP)) == "shop"


def test_it_shows_ids_alone() -> None:
    assert not any(secret in repr(NODE) for secret in (BUS, SHOP, OLD, AUDIT))
    with pytest.raises(SignatureError) as refusal:
        NODE.caller_of("deadbeef:00")
    assert not any(secret in str(refusal.value) for secret in (BUS, SHOP, OLD, AUDIT))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(deadline=None)
@given(NAMES, NAMES, st.integers(1, 10**18 - 1))
def test_the_ids_of_callers_do_not_meet(one: str, other: str, count: int) -> None:
    id = f"0123456789abcdef-{count}"
    ids = {id, callers_id(id, one), callers_id(id, other), callers_id(f"0123456789abcdee-{count}", one)}
    assert len(ids) == 4 - (one == other)
    assert all(len(each.partition("-")[0]) == 16 and each.endswith(f"-{count}") for each in ids)
