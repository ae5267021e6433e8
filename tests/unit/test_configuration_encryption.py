"""The section encryption: of the configuration, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from servicebus.cli.config_check import summary
from servicebus.configuration import Configuration
from servicebus.configuration.values import EncryptionSettings
from servicebus.errors import ConfigurationError
from servicebus.wire.encryption import key_id_of

KEY = "a key that encrypts, long enough"


def read(**encryption: Any) -> EncryptionSettings:
    values = {"hosts": ["mq"], "secret_token": "the secret of the bus", "encryption": encryption}
    found = Configuration(values).encryption
    assert found is not None
    return found


def test_keys_alone_mean_everything() -> None:
    found = read(keys=KEY)
    assert (found.secrets, found.services, found.events) == ((KEY,), ("*",), ("#",))
    assert found.required and found.compress == ""


def test_each_key_is_read() -> None:
    found = read(keys=[KEY, "b" * 20], services="*.pay.*, A.b.c", events=[], required="false", compress="zstd")
    assert (found.services, found.events, found.required) == (("*.pay.*", "A.b.c"), (), False)
    assert found.compress == "zstd"
    assert read(keys=KEY, compress=False).compress == read(keys=KEY, compress="none").compress == ""


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "'encryption.keys' is missing"),
        ({"keys": []}, "at least one secret"),
        ({"keys": KEY, "services": ["pay"]}, "must be patterns of addresses"),
        ({"keys": KEY, "events": ["a.b*"]}, "must be patterns of events"),
        ({"keys": KEY, "compress": "lzma"}, "must be one of zlib, zstd"),
        ({"keys": KEY, "key": KEY}, "unknown key"),
        ({"keys": [KEY, "the secret of the bus"]}, "holds a secret that signs"),
    ],
)
def test_what_cannot_be_is_refused_and_not_shown(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as refused:
        read(**given)
    assert KEY not in str(refused.value) and "the secret of the bus" not in str(refused.value)


def test_a_key_that_a_caller_signs_with_is_refused() -> None:
    values = {"hosts": ["mq"], "secret_token": "s" * 20, "callers": {"shop": {"key": KEY}}}
    with pytest.raises(ConfigurationError, match="holds a secret that signs"):
        Configuration({**values, "encryption": {"keys": KEY}})


def test_config_check_shows_ids_and_what_is_weak() -> None:
    values = {"hosts": ["mq"], "secret_token": "s" * 20, "encryption": {"keys": [KEY, "short"]}}
    config = Configuration(values)
    said = summary(config)
    assert said["encryption"] == [key_id_of(KEY), key_id_of("short")]
    assert any("encryption.keys is shorter than 16 bytes" in each for each in said["warnings"])
    assert KEY not in repr(config.encryption) and KEY not in str(said)
