"""The forms in which a broker may be written, and TLS."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.configuration import BrokerHost, Configuration, TlsSettings
from servicebus.errors import ConfigurationError


def read(*hosts: Any, **values: Any) -> tuple[BrokerHost, ...]:
    return Configuration({"secret_token": "s", "hosts": list(hosts), **values}).hosts


def refusal(*hosts: Any, **values: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(*hosts, **values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "host", "port", "name"),
    [
        ("mq-a", "mq-a", 5672, "mq-a:5672"),
        ("mq-a.example.org:5673", "mq-a.example.org", 5673, "mq-a.example.org:5673"),
        ("127.0.0.1", "127.0.0.1", 5672, "127.0.0.1:5672"),
        ("[::1]", "::1", 5672, "[::1]:5672"),
        ("[::1]:5673", "::1", 5673, "[::1]:5673"),
        ("amqp://mq-a", "mq-a", 5672, "mq-a:5672"),
        ("AMQP://mq-a:5673/", "mq-a", 5673, "mq-a:5673"),
        ("amqp://[::1]:5673", "::1", 5673, "[::1]:5673"),
        ("amqps://mq-a", "mq-a", 5671, "mq-a:5671"),
        ({"host": "mq-a"}, "mq-a", 5672, "mq-a:5672"),
        ({"host": "::1", "port": "5673"}, "::1", 5673, "[::1]:5673"),
        ({"host": "[::1]", "use_ssl": True}, "::1", 5671, "[::1]:5671"),
    ],
)
def test_every_form_gives_host_and_port(written: Any, host: str, port: int, name: str) -> None:
    (found,) = read(written)
    assert (found.host, found.port, found.name) == (host, port, name)


def test_a_url_says_everything() -> None:
    (host,) = read("amqps://us%40er:p%2Fa:ss%40@mq-a:5679/team%2Fbus", user="other", password="other")
    assert (host.user, host.password.reveal(), host.virtual_host) == ("us@er", "p/a:ss@", "team/bus")
    assert (host.use_ssl, host.name) == (True, "mq-a:5679/team/bus")


def test_the_vhost_of_a_slash_can_be_written_both_ways() -> None:
    assert read("amqp://a/", "amqp://b/%2F")[0].virtual_host == "/"
    assert read("amqp://b/%2F", virtual_host="other")[0].virtual_host == "/"
    assert read("amqp://b/", virtual_host="other")[0].virtual_host == "other"


def test_a_mapping_says_what_differs_from_the_rest() -> None:
    hosts = read(
        {"host": "mq-a", "user": "ann", "password": 1, "virtual_host": "v"},
        "mq-b",
        user="bob",
        password="two",
        port=1234,
    )
    assert [(h.name, h.user, h.password.reveal()) for h in hosts] == [
        ("mq-a:1234/v", "ann", "1"),
        ("mq-b:1234", "bob", "two"),
    ]


def test_use_ssl_takes_the_other_port_for_hosts_without_one() -> None:
    hosts = read("mq-a", "mq-b:1", "amqp://mq-c", use_ssl=True, ssl_port=7)
    assert [(h.port, h.use_ssl) for h in hosts] == [(7, True), (1, True), (5672, False)]


def test_whoever_says_how_tls_is_trusted_gets_tls() -> None:
    """A section that is silently without effect would be a plain connection that looks like an encrypted one."""
    assert read("mq-a", tls={"ca": "/ca.pem"})[0].use_ssl
    assert read({"host": "mq-a", "tls": {"ca": "/ca.pem"}})[0].use_ssl
    assert not read("mq-a", tls={"ca": "/ca.pem"}, use_ssl=False)[0].use_ssl


def test_the_tls_of_a_host_adds_to_that_of_all() -> None:
    hosts = read("mq-a", {"host": "mq-b", "tls": {"server_name": "b"}}, tls={"ca": "/ca.pem"})
    assert [h.tls for h in hosts] == [TlsSettings(ca="/ca.pem"), TlsSettings(ca="/ca.pem", server_name="b")]
    assert [h.server_name for h in hosts] == ["mq-a", "b"]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("", "hosts[0] must be a text, not empty"),
        ("mq a", "hosts[0] has no host name in it; write host, host:port,"),
        (":5672", "hosts[0] has no host name in it"),
        (5672, "hosts[0] is a number, not a host; write mq-a:5672 for example"),
        ({"host": 5672}, "hosts[0].host is a number, not a host; write mq-a:5672 for example"),
        ("mq-a:", "hosts[0] has a port that must be a whole number from 1 to 65535"),
        ("mq-a:70000", "hosts[0] has a port that must be a whole number from 1 to 65535, not 70000"),
        ("::1", "hosts[0] looks like IPv6, which stands in brackets: [::1] or [::1]:5672"),
        ("[::1", "hosts[0] is not understood; write host, host:port,"),
        ("[::1]5672", "hosts[0] is not understood"),
        ("[mq-a]:1", "hosts[0] has brackets or colons, but is no IPv6 address"),
        (
            "user:secret@mq-a",
            "hosts[0] is not understood; write host, host:port, [IPv6]:port or amqps://user:password@",
        ),
        ("http://mq-a", "hosts[0] must begin with amqp:// or amqps://"),
        ("amqp://", "hosts[0] has no host name in it"),
        ("amqp://u:pa/ss@mq-a", "hosts[0] has one of / ? # @ where a URL cannot"),
        ("amqp://mq-a?heartbeat=5", "hosts[0] has one of / ? # @ where a URL cannot"),
        ("amqp://u:%ff@mq-a", "hosts[0] has a %-escape that is not UTF-8"),
        ("amqp://u:@mq-a", "hosts[0] must be a text, not empty and without NUL"),
        (None, "hosts[0] must be a text"),
        ([], "hosts[0] must be a text"),
        ({}, "the key 'hosts[0].host' is missing"),
        ({"host": "amqp://mq-a"}, "hosts[0].host must be a host name or address alone"),
        ({"host": "mq-a:5"}, "hosts[0].host has brackets or colons, but is no IPv6 address"),
        ({"host": "mq-a", "port": 0}, "hosts[0].port must be a whole number"),
        ({"host": "mq-a", "members": ["mq-b"]}, "hosts[0] has both host and members; write one of them"),
        ({"members": "mq-b"}, "hosts[0].members must be a list"),
        ({"members": []}, "the key 'hosts[0].host' is missing"),
        ({"members": ["amqp://u:secret@mq-a"]}, "hosts[0].members[0] must be host, host:port or [IPv6]:port; user,"),
        ({"members": ["mq-a", "mq-b", "mq-a"]}, "hosts[0].members names one of them twice"),
        ({"host": "mq-a", "name": ""}, "hosts[0].name must"),
    ],
)
def test_a_form_that_cannot_be_is_refused_with_what_to_write(written: Any, text: str) -> None:
    assert refusal(written).startswith(text)


def test_the_same_broker_twice_is_refused() -> None:
    """Two workers on one broker would look like a failover that there is not."""
    assert refusal("mq-a", "amqp://mq-a:5672") == "hosts[1] is mq-a:5672, which stands in the list already"
    assert len(read("amqp://mq-a/one", "amqp://mq-a/two")) == 2


def test_a_cluster_is_one_host_with_members() -> None:
    cluster = {"name": "cluster-1", "members": ["mq-1", "mq-2:5673", "[::1]"], "user": "bus", "port": 5680}
    hosts = read(cluster, "mq-9")
    assert [host.name for host in hosts] == ["cluster-1", "mq-9:5672"]
    assert hosts[0].members == (("mq-1", 5680), ("mq-2", 5673), ("::1", 5680))
    assert (hosts[0].host, hosts[0].port, hosts[0].user) == ("mq-1", 5680, "bus")


def test_a_cluster_without_a_name_is_called_by_its_members() -> None:
    (host,) = read({"members": ["mq-1", "[::1]"], "virtual_host": "v"})
    assert host.name == "mq-1:5672,[::1]:5672/v"


def test_members_are_taken_one_after_the_other_and_tell_which_one_they_are() -> None:
    (host,) = read({"name": "c", "members": ["mq-1", "mq-2"], "tls": {"ca": "/ca.pem"}})
    assert [host.member(turn).place for turn in range(3)] == ["c (mq-1:5671)", "c (mq-2:5671)", "c (mq-1:5671)"]
    assert (host.member(1).name, host.member(1).server_name) == ("c", "mq-2")


def test_a_single_broker_has_itself_as_every_member() -> None:
    (host,) = read("mq-a")
    assert host.member(7) is host
    assert host.place == host.name


def test_a_single_broker_may_have_a_name_too() -> None:
    assert read({"host": "mq-a", "name": "north"})[0].name == "north"


@given(
    user=st.text(min_size=1).filter(str.strip).filter(lambda t: min(t) >= " "),
    password=st.text(min_size=1).filter(lambda t: "\0" not in t),
)
def test_every_user_and_password_can_be_written_in_a_url(user: str, password: str) -> None:
    (host,) = read(f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@mq-a")
    assert (host.user, host.password.reveal()) == (user, password)


def test_verification_is_on_unless_switched_off_by_name_and_then_warns() -> None:
    assert Configuration({"secret_token": "s", "hosts": ["amqps://mq-a"]}).warnings == ()
    config = Configuration({"secret_token": "s", "hosts": ["amqps://mq-a", "amqp://mq-b"], "tls": {"verify": False}})
    (warning,) = config.warnings
    assert warning.startswith("mq-a:5671: the broker's TLS certificate is not verified")
    context = config.hosts[0].ssl_context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_a_tls_context_verifies_name_and_chain() -> None:
    context = read("amqps://mq-a")[0].ssl_context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_plain_host_has_no_tls_context() -> None:
    assert read("mq-a")[0].ssl_context() is None


def test_certificate_and_key_go_together() -> None:
    assert refusal("mq-a", tls={"certificate": "x"}) == "tls needs both certificate and key, or neither"


@pytest.mark.parametrize(("tls", "key"), [({"ca": "{0}"}, "tls.ca"), ({"certificate": "{0}", "key": "{0}"}, "tls.key")])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_pem_file_that_cannot_be_used_is_named_with_its_host(
    tmp_path: Path, tls: dict[str, str], key: str, content: str | None
) -> None:
    path = tmp_path / "x.pem"
    if content:
        path.write_text(content)
    (host,) = read("amqps://mq-a", tls={name: value.format(path) for name, value in tls.items()})
    with pytest.raises(ConfigurationError) as caught:
        host.ssl_context()
    assert str(caught.value).startswith("host mq-a:5671: ")
    assert key in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_host_can_be_made_by_hand() -> None:
    host = BrokerHost("a:1", "a", 1)
    assert (host.user, host.virtual_host, host.use_ssl, host.tls.verify) == ("guest", "/", False, True)
    assert hash(host) == hash(BrokerHost("a:1", "a", 1))


def test_the_management_api_has_a_url_that_is_a_secret() -> None:
    (host,) = read({"host": "mq-a", "management": "https://admin:p%40ss@mq-a:15671"})
    assert host.management is not None and host.management.reveal() == "https://admin:p%40ss@mq-a:15671"
    assert "p%40ss" not in repr(host)
    assert read("mq-a")[0].management is None


@pytest.mark.parametrize("url", ["mq-a:15672", "amqp://mq-a", "http://", "http://admin:hidden@", "http://mq-a?x=1"])
def test_what_is_no_url_of_a_management_api_is_refused_without_showing_it(url: str) -> None:
    said = refusal({"host": "mq-a", "management": url})
    assert "hosts[0].management" in said and "hidden" not in said
