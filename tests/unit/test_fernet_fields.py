"""Fernet tokens among the fields of other programs' messages, as callers of cyberfusion's consumer make them."""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from cryptography.fernet import Fernet

from servicebus import Secret, Services
from servicebus._plain import PlainQueue
from servicebus._secret import SecretText
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError, RemoteError
from servicebus.protocol.interface import RequestRefused
from servicebus.protocol.plain import PlainProtocol
from servicebus.transport.interface import Delivery
from servicebus.typed.plain_service import PlainService
from servicebus.wire.encryption import EncryptionError
from servicebus.wire.fernet import FernetKeys
from servicebus.wire.signing import Keyring

KEY, OLD, OTHER = (Fernet.generate_key().decode() for _ in range(3))
PASSWORD = "hunter2 of the caller"
NOBODY: Any = None


def token(text: str = PASSWORD, key: str = KEY) -> str:
    return Fernet(key).encrypt(text.encode()).decode()


def body(**fields: Any) -> bytes:
    return json.dumps({"name": "ada", **fields}).encode()


def protocol(*keys: str, host: int = 0) -> PlainProtocol:
    hosts = [{"host": "mq-a", "fernet_key": list(keys)} if keys else {"host": "mq-a"}, {"host": "mq-b"}]
    config = Configuration({"hosts": hosts, "secret_token": "a secret of the test"})
    queue = replace(PlainQueue("users"), answers=True)
    return PlainProtocol(config, Keyring(config.secrets), "users.create", queue, host=config.hosts[host])


def delivered(text: bytes, reply_to: str | None = "amq.gen-1") -> Delivery:
    return Delivery(NOBODY, 1, text, reply_to=reply_to)


@pytest.mark.parametrize("fields", [{"password": token()}, {"deep": [{"password": token(key=OLD)}, 1], "b": token()}])
def test_each_token_is_decrypted_wherever_it_stands(fields: dict[str, Any]) -> None:
    found = FernetKeys([KEY, OLD]).in_plain(body(**fields))
    assert isinstance(found, SecretText) and len(found.places) == str(fields).count("gAAAAA")
    assert (found.count(b"gAAAAA"), found.count(PASSWORD.encode())) == (0, len(found.places))


@pytest.mark.parametrize(
    "text", [body(), b"no JSON with gAAAAA", body(note="gAAAAA"), body(note="see gAAAAA" * 20), b""]
)
def test_what_is_no_token_is_left_as_it_is(text: bytes) -> None:
    assert FernetKeys([KEY]).in_plain(text) is text


@pytest.mark.parametrize(
    "bad",
    [token(key=OTHER), token()[:-10] + "A" * 8 + "==", token()[:60] + token()[60:].swapcase()],
    ids=["another key", "another end", "another middle"],
)
def test_a_token_that_is_wrong_is_refused_with_its_place(bad: str) -> None:
    with pytest.raises(EncryptionError, match=r"Fernet token at a\.0 is made with another key") as refusal:
        FernetKeys([KEY]).in_plain(body(a=[bad]))
    assert PASSWORD not in str(refusal.value)


def test_a_host_has_keys_of_its_own() -> None:
    incoming = protocol(KEY).decode_request(delivered(body(password=token())))
    assert json.loads(incoming.raw_params)["password"] == PASSWORD and PASSWORD not in repr(incoming)
    other = protocol(KEY, host=1).decode_request(delivered(body(password=token())))
    assert json.loads(other.raw_params)["password"].startswith("gAAAAA")


def test_a_caller_is_told_that_its_token_is_wrong() -> None:
    with pytest.raises(RequestRefused) as refused:
        protocol(KEY).decode_request(delivered(body(password=token(key=OTHER))))
    assert refused.value.reply is not None and b"encryption: the Fernet token at password" in refused.value.reply
    with pytest.raises(RequestRefused) as refused:
        protocol(KEY).decode_request(delivered(body(password=token(key=OTHER)), None))
    assert refused.value.reply is None


@pytest.mark.parametrize(
    "key", ["short", KEY[:-4], "not base64 at all, but long enough for it"], ids=["short", "no Fernet key", "no base64"]
)
def test_a_key_that_is_none_is_refused_when_the_file_is_read(key: str) -> None:
    with pytest.raises(ConfigurationError, match="32 bytes in URL-safe base64") as refused:
        protocol(key)
    assert key not in str(refused.value)


users = Services("users")


@users.consume("users", answers=True)
def create(name: str, password: Secret[str], role: str = "") -> int:
    if name == "eve":
        raise ValueError(f"not {password.reveal()}")
    return len(password.reveal())


def test_a_typed_function_gets_a_secret_of_it() -> None:
    (definition,) = users
    service = definition.make()
    assert isinstance(service, PlainService)
    incoming = protocol(KEY).decode_request(delivered(body(password=token())))
    args, kwargs = service.bind(incoming.raw_params)
    bound = inspect.signature(create).bind(*args, **kwargs).arguments
    assert (bound["name"], bound["password"]) == ("ada", Secret(PASSWORD))


def test_a_service_of_tokens_answers_and_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    import servicebus.testing

    caplog.set_level(logging.DEBUG)
    hosts = [{"name": "mq-1", "host": "mq-1", "fernet_key": KEY}]
    with servicebus.testing.bus(users, hosts=hosts) as bus:
        ask = bus.sender.request
        assert json.loads(ask("", "users", body(password=token())).body) == len(PASSWORD)
        with pytest.raises(RemoteError, match=r"ValueError: \(its text is not shown"):
            ask("", "users", {"name": "eve", "password": token()})
        with pytest.raises(RemoteError, match="encryption: the Fernet token at password"):
            ask("", "users", body(password=token(key=OTHER)))
    assert not [each for each in caplog.records if PASSWORD in logging.Formatter().format(each)]
