"""``callers:`` and ``caller``."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError

YAML = """
hosts: [mq]
secret_token: the secret of the bus
callers:
  shop:
    key: [the present key of shop, the former key of shop]
    allow: ["*.math.*", NODE-01.audit.record]
    deny: "*.math.drop, *.math.clear"
    publish: orders.#
  guest:
    key: a key of the guest alone
"""
SECRETS = ("the secret of the bus", "the present key of shop", "the former key of shop", "a key of the guest alone")


def configured(**values: Any) -> Configuration:
    return Configuration({"hosts": ["mq"], "secret_token": "the secret of the bus", **values})


def wrong(**values: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        configured(**values)
    return caught.value


def test_callers_are_read() -> None:
    config = Configuration.parse(YAML)
    shop, guest = config.callers["shop"], config.callers["guest"]
    assert shop.secrets == ("the present key of shop", "the former key of shop")
    assert (shop.allow, shop.publish) == (("*.math.*", "NODE-01.audit.record"), ("orders.#",))
    assert shop.deny == ("*.math.drop", "*.math.clear")
    assert (guest.allow, guest.deny, guest.publish) == ((), (), ())
    assert config.caller_secrets == {"shop": shop.secrets, "guest": guest.secrets}
    assert config.caller is None and config.sender_secrets == config.secrets


def test_without_callers_nothing_changes() -> None:
    config = configured()
    assert (config.callers, config.caller, config.caller_secrets) == ({}, None, {})
    assert config.sender_secrets == config.secrets == ("the secret of the bus",)


def test_a_sender_signs_as_the_caller_that_it_names() -> None:
    at_hand = Configuration.parse(f"{YAML}\ncaller: shop")
    assert at_hand.sender_secrets == ("the present key of shop", "the former key of shop")
    assert at_hand.secrets == ("the secret of the bus",)
    alone = configured(caller="shop", secret_token=["the present key of shop"])
    assert alone.caller == "shop" and alone.sender_secrets == ("the present key of shop",)


def test_no_key_is_shown() -> None:
    config = Configuration.parse(YAML)
    shown = f"{config!r} {config.callers!r} {config.callers['shop']} {config.secret_warnings}"
    assert not any(secret in shown for secret in SECRETS)


def test_a_configuration_with_callers_is_copied_and_pickled() -> None:
    config = Configuration.parse(f"{YAML}\ncaller: shop")
    for other in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other.callers == config.callers and other.sender_secrets == config.sender_secrets


def test_keys_that_do_not_protect_are_warned_of() -> None:
    config = configured(callers={"shop": {"key": "short"}, "audit": {"key": "for trying out only"}})
    warned = " ".join(config.secret_warnings)
    assert "callers.shop.key is shorter" in warned and "callers.audit.key is the one of the samples" in warned


@pytest.mark.parametrize(
    ("callers", "key", "says"),
    [
        (["shop"], "callers", "must be a mapping"),
        ("shop", "callers", "must be a mapping"),
        ({"shop": "the key of shop"}, "callers", "must have a mapping with key, allow, deny, publish for each name"),
        ({"s.hop": {"key": "k" * 20}}, "callers", "a name in callers must be"),
        ({"7": {"key": "k" * 20, "alow": "*"}}, "callers.7.alow", "did you mean 'allow'"),
        ({"shop": {}}, "callers.shop.key", "is missing"),
        ({"shop": {"key": ""}}, "callers.shop.key", "must be a text"),
        ({"shop": {"key": []}}, "callers.shop.key", "at least one secret"),
        ({"shop": {"key": "k", "allow": ["math.*"]}}, "callers.shop.allow", 'patterns of addresses such as "*.math.*"'),
        ({"shop": {"key": "k", "allow": ["a.b.c.d"]}}, "callers.shop.allow", "patterns of addresses"),
        ({"shop": {"key": "k", "deny": {"a": 1}}}, "callers.shop.deny", "a list of patterns of addresses"),
        ({"shop": {"key": "k", "allow": [7]}}, "callers.shop.allow", "patterns of addresses"),
        ({"shop": {"key": "k", "publish": ["orders.*x"]}}, "callers.shop.publish", 'events such as "orders.*"'),
        ({"shop": {"key": "the secret of the bus"}}, "callers.shop.key", "is that of secret_token already"),
        ({"shop": {"key": "k"}, "audit": {"key": ["l", "k"]}}, "callers.audit.key", "is that of callers.shop already"),
    ],
)
def test_what_cannot_be_is_refused(callers: Any, key: str, says: str) -> None:
    error = wrong(callers=callers)
    assert error.key == key and says in str(error)
    assert "the key of shop" not in str(error) and "the secret of the bus" not in str(error)


def test_a_caller_must_be_one_of_those_at_hand() -> None:
    assert wrong(callers={"shop": {"key": "k"}}, caller="audit").key == "caller"
    assert wrong(caller="a b").key == "caller"


def test_a_key_in_the_place_of_a_name_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration.parse("hosts: [mq]\nsecret_token: a\ncallers:\n  c2VjcmV0: shop\n")
    assert "c2VjcmV0" not in f"{caught.value} {caught.value.key}"
    assert caught.value.line == 3
