"""Configuration from YAML: the same keys, with lines, environment and secret files, and no surprise from any text."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servicebus.configuration import Configuration, MissingKey, Secret, load_logging
from servicebus.configuration.keys import ALL_KEYS
from servicebus.errors import ConfigurationError

LEAST = "hosts: [mq-a]\nsecret_token: s\n"


def parse(text: str, **arguments: Any) -> Configuration:
    return Configuration.parse(LEAST + text, "bus.yaml", **arguments)


def refusal(text: str, least: str = LEAST, **arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Configuration.parse(least + text, "bus.yaml", **arguments)
    assert caught.value.path == "bus.yaml"
    return str(caught.value)


def test_a_file_has_the_keys_of_the_dict() -> None:
    config = parse("node_name: N\nprefetch: 7\ncall_timeout: 2.5\ncompat: yes\nqueue_len:\n")
    assert (config.node_name, config.prefetch, config.call_timeout) == ("N", 7, 2.5)
    assert (config.compat, config.queue_len, config.path) == (True, None, "bus.yaml")


@pytest.mark.parametrize("written", ["0123", "123456", "1e3", "yes", "2026-11-20", "0x1F", "12:30:45", '"~"', "1_000"])
def test_a_password_stays_the_text_that_stands_in_the_file(written: str) -> None:
    """YAML 1.1 makes 83 of 0123, true of yes and 45045 of 12:30:45."""
    config = parse(f"password: {written}\n")
    assert config.password == Secret(written.strip('"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prefech: 3", "bus.yaml:3: unknown key 'prefech'; did you mean 'prefetch'?"),
        ("\n\ntls:\n  ca: x\n  verfy: no", "bus.yaml:7: unknown key 'verfy' in tls; did you mean 'verify'?"),
        ("\nprefetch:\n  0", "bus.yaml:4: prefetch must be a whole number from 1 to 65535, not 0"),
        ("port: 1\nuser: a\nport: 2", "bus.yaml:5: the key 'port' stands here a second time; first on line 3"),
        ("tls: {ca: a, ca: b}", "bus.yaml:3: the key 'ca' stands here a second time; first on line 3"),
        ("services:\n- kind: rpc\n- {}", "bus.yaml:4: the key 'services[0].category' is missing"),
        ("services:\n- kind: rpc\n  name: a.b\n", "bus.yaml:4: the key 'services[0].category' is missing"),
        ("logging:\n  level: INFO\n  keep: x\n", "bus.yaml:5: logging.keep must be a whole number from 0 to 100000"),
        ("? [a]\n: b", "bus.yaml:3: a key must be a plain text"),
        ("<<: [{port: 1}, 2]", "bus.yaml:3: a merge key (<<) takes a mapping, or a list of mappings"),
        ("<<: port", "bus.yaml:3: a merge key (<<) takes a mapping, or a list of mappings"),
        ("user: !!binary aGVsbG8=", "bus.yaml:3: unknown tag; the only one known here is '!file path'"),
        ("user: !!python/object:os.system {}", "bus.yaml:3: unknown tag; the only one known here is '!file path'"),
        ("user: 'open", "bus.yaml:3: not valid YAML: found unexpected end of stream"),
        ("user: a\n\tport: 1", "bus.yaml:4: not valid YAML: found character '\\t' that cannot start any token"),
        ("user: a: b", "bus.yaml:3: not valid YAML: mapping values are not allowed here"),
        ("user: [a", "bus.yaml:3: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("- user", "bus.yaml:3: not valid YAML: expected <block end>, but found '-'"),
        ("user: *secret", "bus.yaml:3: not valid YAML: found undefined alias something"),
        ("--- 1", "bus.yaml:3: not valid YAML: but found another document"),
        ("user: \x00", "bus.yaml:3: not valid YAML: a character that YAML does not allow"),
        ("user: &a [*a]", "bus.yaml:3: the configuration is nested too deeply or too large"),
        ("user: " + "[" * 100_000, "bus.yaml: the configuration is nested too deeply"),
        ('user: "\\UFFFFFFFF"', "bus.yaml: not valid YAML"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(text: str, message: str) -> None:
    assert refusal(text) == message


def test_a_missing_key_is_said_with_the_file() -> None:
    with pytest.raises(MissingKey) as caught:
        Configuration.parse("hosts: [a]", "bus.yaml")
    assert str(caught.value) == "bus.yaml:1: the key 'secret_token' is missing"


def test_a_host_in_the_list_is_named_by_its_line() -> None:
    text = "hosts:\n  - mq-a\n  - host: mq-b\n    port: 0\nsecret_token: s\n"
    assert refusal(text, least="") == "bus.yaml:4: hosts[1].port must be a whole number from 1 to 65535, not 0"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_says_that_it_is_empty(text: str) -> None:
    assert "empty" in refusal(text, least="") or "must be a mapping" in refusal(text, least="")


def test_a_billion_laughs_end_early() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert refusal("a0: &a0 [x]\n" + levels).endswith("nested too deeply or too large")


def test_aliases_may_share_what_two_hosts_have_in_common() -> None:
    text = "secret_token: s\nhosts:\n  - {host: a, tls: &t {ca: /ca.pem}}\n  - {host: b, tls: *t}\n"
    assert [host.tls.ca for host in Configuration.parse(text).hosts] == ["/ca.pem", "/ca.pem"]


@pytest.mark.parametrize(
    ("written", "environment", "found"),
    [
        ("${NAME}", {"NAME": "x"}, "x"),
        ("${NAME:-y}", {"NAME": "x"}, "x"),
        ("${NAME:-y}", {}, "y"),
        ("${NAME:-y}", {"NAME": ""}, "y"),
        ("a${NAME}b${NAME}c", {"NAME": "x"}, "axbxc"),
        ("${NAME}", {"NAME": "${OTHER}"}, "${OTHER}"),
        ("$${NAME}", {"NAME": "x"}, "${NAME}"),
        ("$NAME $ {NAME}", {"NAME": "x"}, "$NAME $ {NAME}"),
        ("${NAME:-a:-b $c}", {}, "a:-b $c"),
        ("${NAME:-${OTHER}}", {"OTHER": "x"}, "x"),
        ("${NAME:-${OTHER:-${THIRD:-z}y}}w", {"OTHER": ""}, "zyw"),
        ("${NAME:-a$${b}c}", {}, "a${bc}"),
        ("a}b${NAME}}", {"NAME": "x"}, "a}bx}"),
    ],
)
def test_the_environment_is_put_in(written: str, environment: dict[str, str], found: str) -> None:
    assert parse(f"user: '{written}'", environment=environment).user == found


def test_merge_keys_bring_what_the_mapping_does_not_say_itself() -> None:
    """As in YAML 1.1: the mapping's own keys count most, then the first of the merged ones."""
    text = """secret_token: s
hosts:
  - &a {host: mq-a, port: 1, user: ann}
  - &b {<<: *a, host: mq-b, port: 2}
  - {host: mq-c, <<: [*b, {user: bob, virtual_host: v}]}
"""
    hosts = Configuration.parse(text).hosts
    assert [(h.name, h.user) for h in hosts] == [("mq-a:1", "ann"), ("mq-b:2", "ann"), ("mq-c:2/v", "ann")]


def test_a_path_may_begin_at_the_home_folder() -> None:
    text = LEAST + "status_socket: ~/s.sock\njournal: ~/j\ntls: {ca: ~/ca.pem}\nlogging: {file: ~/log}\n"
    config = Configuration.parse(text, environment={"HOME": "/home/ann"}, folder="/etc")
    found = (config.status_socket, config.journal, config.tls.ca, config.logging.file)
    assert found == ("/home/ann/s.sock", Secret("/home/ann/j"), "/home/ann/ca.pem", "/home/ann/log")
    read = Configuration.parse("hosts: [a]\nsecret_token: !file ~/key", environment={"HOME": "/h"}, read_file=str.upper)
    assert read.secrets == ("/H/KEY",)


@pytest.mark.parametrize("key", ["status_socket: ~bob/s", "journal: ~bob/j", "tls: {ca: ~bob/c}", "user: !file ~bob/k"])
def test_the_home_folder_of_another_user_is_refused(key: str) -> None:
    environment = {"HOME": "/home/ann"}
    assert "write the full path" in refusal(key, environment=environment, read_file=str)
    assert "write the full path" in refusal(key.replace("~bob", "~"), read_file=str)  # no home is known


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbfsecret\r\n")
    (tmp_path / "bus.yaml").write_bytes(b"\xef\xbb\xbfhosts: [a]\nsecret_token: !file secret\n")
    assert Configuration.load(tmp_path / "bus.yaml").secrets == ("secret",)


def test_numbers_flags_and_hosts_may_come_from_the_environment() -> None:
    text = "hosts: ['${A}', '${B:-mq-b:1}']\nsecret_token: s\nprefetch: ${N}\ncompat: ${C:-true}\n"
    config = Configuration.parse(text, environment={"A": "amqps://mq-a/", "N": "9"})
    assert ([h.name for h in config.hosts], config.prefetch, config.compat) == (["mq-a:5671", "mq-b:1"], 9, True)


def test_a_variable_that_is_not_set_is_named_with_its_line() -> None:
    assert refusal("user: ${NAME}") == (
        "bus.yaml:3: the environment variable NAME is not set; ${NAME:-default} gives a default"
    )
    how = "bus.yaml:3: write ${NAME} or ${NAME:-default}; for a plain ${ write $${"
    assert [refusal(f"user: '{text}'") for text in ("${NAME", "${NAME:-x", "${A:-${B:-x}", "${}")] == [how] * 4
    assert "OTHER is not set" in refusal("user: '${NAME:-${OTHER}}'")
    assert "user must be a text, not empty" in refusal("user: ${NAME}", environment={"NAME": ""})


def test_parse_reads_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "x")
    assert "NAME is not set" in refusal("user: ${NAME}")
    assert refusal("user: !file x") == "bus.yaml:3: !file is only read by Configuration.load()"


def test_load_reads_the_file_its_secrets_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUS_USER", "ann")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "new").write_text("new secret \n")
    (tmp_path / "keys" / "old").write_text("old\r\n")
    path = tmp_path / "bus.yaml"
    path.write_text(
        "hosts: [mq-a]\nuser: ${BUS_USER}\nsecret_token: [!file keys/new, !file 'keys/${K:-old}']\n",
        encoding="utf-8-sig",
    )
    config = Configuration.load(path)
    assert (config.user, config.secrets, config.path) == ("ann", ("new secret ", "old"), str(path))
    assert Configuration.load(path, environment={"BUS_USER": "bob"}).user == "bob"


def test_paths_are_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bus.yaml"
    path.write_text(
        LEAST + "tls: {ca: ca.pem, certificate: /c.pem, key: k.pem}\nstatus_socket: s\nlogging: {file: l}\n"
    )
    config = Configuration.load(path)
    assert (config.tls.ca, config.tls.certificate) == (str(tmp_path / "ca.pem"), "/c.pem")
    assert (config.status_socket, config.logging.file) == (str(tmp_path / "s"), str(tmp_path / "l"))


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory"), ("a\0b", "null")):
        with pytest.raises(ConfigurationError) as caught:
            Configuration.load(path)
        assert str(caught.value).startswith(f"{os.fspath(path)}: cannot be read: ")
        assert why in str(caught.value)
    (tmp_path / "latin.yaml").write_bytes(b"user: \xe4\n")
    with pytest.raises(ConfigurationError, match=r"latin\.yaml: the file is not UTF-8 text"):
        Configuration.load(tmp_path / "latin.yaml")


def test_a_secret_file_that_cannot_be_read_is_named_with_the_key_that_wants_it(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe4")
    for name, why in (("none", "cannot be read: No such file or directory"), ("latin", "is not UTF-8 text")):
        path = tmp_path / "bus.yaml"
        path.write_text(f"hosts: [a]\n\nsecret_token: !file {name}\n")
        with pytest.raises(ConfigurationError) as caught:
            Configuration.load(path)
        assert str(caught.value) == f"{path}:3: !file {tmp_path / name} {why}"


def test_the_log_server_needs_neither_hosts_nor_secret(tmp_path: Path) -> None:
    path = tmp_path / "log.yaml"
    path.write_text("logging: {file: x.log, port: 5501}\n")
    settings = load_logging(path)
    assert (settings.configured, settings.file, settings.port) == (True, str(tmp_path / "x.log"), 5501)
    assert settings.secrets == ()
    path.write_text("logging: {file: x.log}\nsecret_token: [a, b]\nlogging2: 1\n")
    with pytest.raises(ConfigurationError, match=r"log\.yaml:3: unknown key 'logging2'; did you mean 'logging'\?"):
        load_logging(path)


WORDS = st.one_of(
    st.sampled_from(
        [*ALL_KEYS, "- ", ": ", "\n", "\n  ", "!file ", "${", "}", "[", "]", "{", "}", "&a ", "*a", "amqp://", "'"]
    ),
    st.text(max_size=5),
    st.integers().map(str),
)


@settings(deadline=None)  # PyYAML takes a second for what is nested deep
@given(st.one_of(st.text(), st.lists(WORDS).map("".join)))
@example('"\\UFFFFFFFF"')
@example("a: &a [*a]")
@example("[" * 5000)
@example("\ud800")
@example("? ? a")
@example("!!int x: 1")
@example("hosts: ['amqp://[']\nsecret_token: s")
def test_any_text_is_a_configuration_or_a_configurationerror(text: str) -> None:
    for least in ("", LEAST):
        try:
            found = Configuration.parse(least + text, "x.yaml")
        except ConfigurationError:
            continue
        assert found.hosts


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["host", "ca", "file", "kind"]), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(ALL_KEYS), VALUES))
def test_any_dict_is_a_configuration_or_a_configurationerror(values: dict[str, Any]) -> None:
    for least in ({}, {"hosts": ["mq-a"], "secret_token": "s"}):
        try:
            found = Configuration({**least, **values})
        except ConfigurationError:
            continue
        assert found.hosts


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bus.yaml"
    path.write_text("hosts: [a]\nsecret_token: !file /dev/zero\n")
    with pytest.raises(ConfigurationError, match=r"bus\.yaml:2: !file /dev/zero cannot be read: File too large"):
        Configuration.load(path)
    with pytest.raises(ConfigurationError, match="/dev/zero: cannot be read: File too large"):
        Configuration.load("/dev/zero")


def test_the_line_ends_of_other_systems_are_read_as_those_of_unix(tmp_path: Path) -> None:
    (tmp_path / "bus.yaml").write_bytes(b"hosts: [a]\r\nsecret_token: !file secret\r\n")
    (tmp_path / "secret").write_bytes(b"one\r\ntwo\r\n")
    assert Configuration.load(tmp_path / "bus.yaml").secrets == ("one\ntwo",)
