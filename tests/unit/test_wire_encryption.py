"""Encryption of texts, before anything of it is an envelope."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import pickle
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from servicebus._secret import SecretText, hidden_at, revealed
from servicebus.configuration import Secret
from servicebus.configuration.values import EncryptionSettings
from servicebus.errors import EnvelopeError
from servicebus.protocol.encryption import Encryption
from servicebus.wire import encryption
from servicebus.wire.address import Address
from servicebus.wire.compression import compressed, decompressed
from servicebus.wire.encryption import EncryptionError, EncryptionKeys, key_id_of
from servicebus.wire.envelope import CALL
from servicebus.wire.jsontext import HoldsSecret, decode_json, decode_params, encode_json, encode_params
from servicebus.wire.signing import Keyring
from servicebus.wire.streams import decode_chunk, verify_chunk
from servicebus.wire.xmlcodec import decode_envelope, decode_reply

NEW, OLD = "the key of now, long enough", "the key of before, long enough"
MOST = 10_000


def bound(head: bytes) -> bytes:
    return b"the header|" + head


def elsewhere(head: bytes) -> bytes:
    return b"another header|" + head


KEYS = EncryptionKeys([NEW, OLD])


def opened(payload: bytes, keys: EncryptionKeys = KEYS) -> SecretText:
    return keys.decrypt(payload, bound, MOST)


@pytest.mark.parametrize("text", [b"null", b'{"a":[1,2]}', b'"' + b"x" * 5000 + b'"'])
def test_what_is_encrypted_is_decrypted_and_not_seen(text: bytes) -> None:
    payload = KEYS.encrypt(text, bound)
    found = opened(payload)
    assert found == text and found.places == () and found.key_id == KEYS.key_id
    assert payload.startswith(b"A256GCM:" + KEYS.key_id.encode() + b":json:")
    assert text[1:-1] not in payload


def test_it_is_aes_gcm_with_a_key_derived_of_secret_and_salt() -> None:
    """As docs/wire-format says it, by the standard library and the cipher alone."""
    head, text = KEYS.encrypt(b"[1]", bound).rsplit(b":", 1)
    raw = base64.b64decode(text, validate=True)
    salt, nonce, sealed = raw[:16], raw[16:28], raw[28:]
    key = hmac.new(NEW.encode(), b"servicebus/2 encryption\0" + salt, hashlib.sha256).digest()
    assert AESGCM(key).decrypt(nonce, sealed, bound(head + b":")) == b"[1]"
    assert KEYS.key_id == hashlib.sha256(b"servicebus encryption key id\0" + NEW.encode()).hexdigest()[:8]


def test_each_key_is_found_by_its_id_and_the_first_one_encrypts() -> None:
    by_old = EncryptionKeys([OLD]).encrypt(b"1", bound)
    assert opened(by_old).key_id == key_id_of(OLD)
    assert KEYS.key_ids == (key_id_of(NEW), key_id_of(OLD))
    assert opened(KEYS.encrypt(b"1", bound)).key_id == key_id_of(NEW)
    assert opened(KEYS.encrypt(b"1", bound, key_id_of(OLD))).key_id == key_id_of(OLD)
    assert opened(KEYS.encrypt(b"1", bound, "unknown")).key_id == key_id_of(NEW)


def test_no_two_keys_have_one_id_and_there_is_one_at_least() -> None:
    with pytest.raises(ValueError, match="one key or more"):
        EncryptionKeys([])
    assert EncryptionKeys([NEW, NEW]).key_ids == (key_id_of(NEW),)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (EncryptionKeys(["another"]).encrypt(b"1", bound), "no encryption key with the id"),
        (KEYS.encrypt(b"1", elsewhere), "another key, changed, or does not belong here"),
        (KEYS.encrypt(b"1", bound).replace(key_id_of(NEW).encode(), key_id_of(OLD).encode()), "does not decrypt it"),
        (KEYS.encrypt(b"1", bound).replace(b":json:", b":zlib:"), "does not decrypt it"),
        (KEYS.encrypt(b"1", bound) + b":2", "does not decrypt it"),
        (KEYS.encrypt(b"1", bound) + b"\n", "does not decrypt it"),
        (b"A256GCM:", "no encryption key"),
        (b"A256GCM:" + KEYS.key_id.encode() + b":json:", "does not decrypt it"),
        (b"A256GCM:" + KEYS.key_id.encode() + b":json:AAAA", "does not decrypt it"),
        (b"A256GCM:\xff\xff\xff\xff:json:AAAA", "no encryption key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_refused_and_nothing_of_it_said(payload: bytes, why: str) -> None:
    with pytest.raises(EncryptionError, match=why) as refusal:
        opened(payload)
    assert refusal.value.reason == "encryption" and NEW not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_every_byte_counts() -> None:
    payload = KEYS.encrypt(b'{"a":"b"}', bound)
    for at in range(len(payload)):
        for changed in (payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :], payload[:at] + payload[at + 1 :]):
            with pytest.raises(EncryptionError):
                opened(changed)


def test_the_bits_that_base64_leaves_over_are_none() -> None:
    payload = EncryptionKeys([NEW]).encrypt(b"12", bound)
    assert payload.endswith(b"=")
    stem, last = payload.rstrip(b"=")[:-1], payload.rstrip(b"=")[-1:]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    end = payload[len(payload.rstrip(b"=")) :]
    accepted = []
    for other in alphabet:
        try:
            opened(stem + bytes([other]) + end)
        except EncryptionError:
            continue
        accepted.append(bytes([other]))
    assert accepted == [last]


# -- nonces ------------------------------------------------------------------------------------------------------------


def test_no_salt_with_nonce_is_used_twice_and_the_salt_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_USES", 100)
    keys = EncryptionKeys([NEW])
    payloads = [keys.encrypt(b"1", bound) for _ in range(1000)]
    raw = [base64.b64decode(each.rsplit(b":", 1)[1]) for each in payloads]
    assert len({each[:28] for each in raw}) == 1000
    assert len({each[:16] for each in raw}) == 10
    assert len({each[:16] for each in map(_raw, (EncryptionKeys([NEW]).encrypt(b"1", bound) for _ in range(9)))}) == 9


def _raw(payload: bytes) -> bytes:
    return base64.b64decode(payload.rsplit(b":", 1)[1])


def test_threads_share_a_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_USES", 3)
    keys, made = EncryptionKeys([NEW]), []

    def work() -> None:
        made.extend([keys.encrypt(b"1", bound) for _ in range(200)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({_raw(each)[:28] for each in made}) == 800
    assert all(opened(each) == b"1" for each in made)


def test_the_keys_of_others_salts_are_remembered_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "_KNOWN", 4)
    reader = EncryptionKeys([NEW])
    for _ in range(20):
        assert opened(EncryptionKeys([NEW]).encrypt(b"1", bound), reader) == b"1"
    assert len(reader._first._ciphers) <= 4
    before = dict(reader._first._ciphers)
    forged = b"A256GCM:%b:json:%b" % (reader.key_id.encode(), base64.b64encode(b"x" * 60))
    with pytest.raises(EncryptionError):
        opened(forged, reader)
    assert reader._first._ciphers == before, "who has not the key cannot fill it"


def test_keys_are_neither_shown_nor_pickled() -> None:
    assert NEW not in repr(KEYS) and key_id_of(NEW) in repr(KEYS)
    with pytest.raises(TypeError, match="hold secrets"):
        pickle.dumps(KEYS)


# -- fields ------------------------------------------------------------------------------------------------------------


def test_a_secret_among_params_is_refused_where_nothing_encrypts() -> None:
    for value in (Secret("x"), {"a": Secret("x")}, [1, [Secret({"b": "x"})]]):
        with pytest.raises(HoldsSecret, match="only travels encrypted"):
            encode_json(value)


def test_params_with_secrets_become_a_text_that_knows_their_places() -> None:
    value = {"name": "Ada", "iban": Secret("DE1"), "cards": [{"pin": Secret(1234)}, (Secret([1, Secret(2)]),)]}
    text = encode_params(value)
    assert isinstance(text, SecretText)
    assert text.places == (("iban",), ("cards", 0, "pin"), ("cards", 1, 0))
    assert decode_json(text) == {"name": "Ada", "iban": "DE1", "cards": [{"pin": 1234}, [[1, 2]]]}
    assert decode_params(text)["cards"][1] == [Secret([1, 2])]
    assert "DE1" not in repr(text) and "DE1" not in str(text) and "DE1" not in f"{text!r}"
    assert value["iban"] == Secret("DE1"), "the value itself is left as it is"


def test_a_secret_that_is_all_of_it_has_no_places() -> None:
    text = encode_params(Secret({"a": 1}))
    assert isinstance(text, SecretText) and text.places == () and decode_params(text) == {"a": 1}


def test_params_without_secrets_are_plain_bytes() -> None:
    assert type(encode_params({"a": 1})) is bytes


def test_only_the_fields_are_encrypted_and_the_rest_is_bound_to_them() -> None:
    text = encode_params({"name": "Ada", "iban": Secret("DE1"), "n": {"1": Secret(None)}})
    payload = KEYS.encrypt(text, bound, is_whole=False)
    assert payload.endswith(b':{"name":"Ada","iban":null,"n":{"1":null}}') and b"DE1" not in payload
    found = opened(payload)
    assert decode_params(found) == {"name": "Ada", "iban": Secret("DE1"), "n": {"1": Secret(None)}}
    for changed in (payload.replace(b"Ada", b"Bob"), payload.replace(b'"iban":null', b'"ibam":null'), payload[:-1]):
        with pytest.raises(EncryptionError):
            opened(changed)


def test_what_is_encrypted_as_a_whole_keeps_its_secrets_marked() -> None:
    text = encode_params({"name": "Ada", "iban": Secret("DE1")})
    payload = KEYS.encrypt(text, bound)
    assert b"Ada" not in payload and b":marked:" in payload
    assert decode_params(opened(payload)) == {"name": "Ada", "iban": Secret("DE1")}


@pytest.mark.parametrize("form", ["fields", "marked"])
def test_places_that_are_none_are_refused(form: str) -> None:
    """Whoever has the key may be mistaken."""
    text, behind = (b'[[["a","b"],1]]', b':{"a":2}') if form == "fields" else (b'[[["a","b"]],{"a":2}]', b"")
    head = f"A256GCM:{KEYS.key_id}:{form}:".encode()
    raw = KEYS._first.encrypt(text, bound(head + behind))
    with pytest.raises(EncryptionError, match="not where it says"):
        opened(head + base64.b64encode(raw) + behind)


def test_hidden_and_revealed_are_opposites() -> None:
    value = {"a": [1, {"b": "x"}], "c": None}
    places = [("a", 1, "b"), ("c",)]
    assert revealed(hidden_at(json.loads(json.dumps(value)), places)) == (value, places)


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zlib", "zstd"])
def test_a_long_text_is_compressed_before(form: str) -> None:
    keys, text = EncryptionKeys([NEW], form), b'"' + b"abc" * 1000 + b'"'
    payload = keys.encrypt(text, bound)
    assert f":{form}:".encode() in payload and len(payload) < 300
    assert opened(payload) == text
    assert b":json:" in keys.encrypt(b"[1]", bound)


@pytest.mark.parametrize("form", ["zlib", "zstd"])
def test_a_text_that_does_not_become_shorter_is_left_as_it_is(form: str) -> None:
    text = hashlib.sha512(b"1").digest() * 8
    assert compressed(text[:300], "zlib")[1] in ("zlib", "json")
    noise = b"".join(hashlib.sha512(bytes([each])).digest() for each in range(9))
    assert compressed(noise, form) == (noise, "json")


@pytest.mark.parametrize("form", ["zlib", "zstd"])
def test_a_bomb_is_not_unpacked(form: str) -> None:
    keys = EncryptionKeys([NEW], form)
    payload = keys.encrypt(b" " * (MOST + 1), bound)
    with pytest.raises(EnvelopeError, match="when decompressed") as refusal:
        opened(payload)
    assert refusal.value.reason == "oversized"
    assert opened(keys.encrypt(b" " * MOST, bound)) == b" " * MOST
    packed, _ = compressed(b"\0" * 50_000_000, form)
    with pytest.raises(EnvelopeError, match="when decompressed"):
        decompressed(packed, form, MOST)


@pytest.mark.parametrize(
    ("text", "form", "why"),
    [
        (zlib.compress(b"x" * 900)[:-6], "zlib", "breaks off"),
        (compressed(b"x" * 900, "zstd")[0][:-3], "zstd", "breaks off|no zstd"),
        (b"no zlib", "zlib", "no zlib"),
        (b"no zstd at all", "zstd", "no zstd"),
        (b"", "zlib", "breaks off"),
        (b"1", "lzma", "not known here"),
    ],
)
def test_what_is_no_compressed_text_is_refused(text: bytes, form: str, why: str) -> None:
    with pytest.raises(EnvelopeError, match=why):
        decompressed(text, form, MOST)


VECTORS = json.loads((Path(__file__).parents[1] / "data/wire/encryption.json").read_text())


@pytest.mark.parametrize("each", VECTORS["decrypts"], ids=lambda each: each["name"])
def test_the_vectors_are_read(each: dict[str, Any]) -> None:
    keys, payload = EncryptionKeys([each["key"]]), each["payload"].encode()
    assert keys.key_id == each["key_id"]
    frames = []
    found = keys.decrypt(payload, lambda head: frames.append(head) or each["associated"].encode(), MOST)  # type: ignore[func-returns-value]
    assert found.decode() == each["text"] and [list(place) for place in found.places] == each["places"]
    assert frames[0] in each["associated"].encode()


@pytest.mark.parametrize("each", VECTORS["decrypts"], ids=lambda each: each["name"])
def test_the_vectors_are_what_the_cipher_alone_makes_of_them(each: dict[str, Any]) -> None:
    raw = base64.b64decode(each["payload"].split(":")[3], validate=True)
    assert (raw[:16].hex(), raw[16:28].hex()) == (each["salt_hex"], each["nonce_hex"])
    text = AESGCM(bytes.fromhex(each["derived_key_hex"])).decrypt(raw[16:28], raw[28:], each["associated"].encode())
    if each["form"] == "json":
        assert text.decode() == each["text"]


@pytest.mark.parametrize("each", VECTORS["decrypts"], ids=lambda each: each["name"])
def test_the_bodies_of_the_vectors_are_read(each: dict[str, Any]) -> None:
    """By the whole of it: what is associated is taken from the body."""
    encryption = Encryption(EncryptionSettings((Secret(each["key"]),)), 10**6)
    body, request_token = each["body"].encode(), VECTORS["decrypts"][0]["body"].split("<token>")[1].split("<")[0]
    request: Any = SimpleNamespace(params=b"", kind=CALL, address=Address.parse("NODE-01.math.add"))
    if each["of"] == "event":
        envelope = decode_envelope(body, 10**6)
        Keyring([each["secret"]]).verify_envelope(envelope)
        assert encryption.params_in_plain(envelope).decode() == each["text"]
    elif each["of"] == "chunk":
        verify_chunk(Keyring([each["secret"]]), request_token, chunk := decode_chunk(body, 10**6))
        assert encryption.chunk_in_plain(request, request_token, chunk).items.decode() == each["text"]
    else:
        reply = decode_reply(body, 10**6)
        Keyring([each["secret"]]).verify_reply(reply, request_token)
        reply = encryption.reply_to(request, request_token, reply)
        told = [reply.fault.text, reply.fault.trace, reply.fault.data] if reply.fault else decode_json(reply.message)
        assert told == json.loads(each["text"])


@pytest.mark.parametrize("each", VECTORS["refused"], ids=lambda each: each["name"])
def test_the_vectors_that_are_wrong_are_refused(each: dict[str, Any]) -> None:
    with pytest.raises(EncryptionError):
        EncryptionKeys([each["key"]]).decrypt(each["payload"].encode(), lambda _: each["associated"].encode(), MOST)
