"""A secret never shows: not in a repr, an error or a traceback, wherever it stands and whatever else is wrong."""

import copy
import io
import json
import logging
import multiprocessing
import multiprocessing.context
import pickle
import traceback
import types
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.configuration import Configuration, Secret
from servicebus.configuration.weakness import PUBLIC_SECRET
from servicebus.errors import ConfigurationError, ServiceBusError
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.transport import loggers
from servicebus.transport.udp import DatagramHandler

# Any characters behind a beginning that turns up nowhere by chance; white space around would be lost in the comparison.
SECRETS = st.text(min_size=3, max_size=40).map("Zq7w".__add__).filter(lambda t: "\0" not in t and t == t.strip())

PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "secret_token": lambda secret: {"secret_token": secret},
    "one of several": lambda secret: {"secret_token": ["other", secret]},
    "password": lambda secret: {"password": secret},
    "password of a host": lambda secret: {"hosts": [{"host": "mq-a", "password": secret}]},
    "password in a URL": lambda secret: {"hosts": [f"amqp://user:{quote(secret, safe='')}@mq-a"]},
    "unquoted in a URL": lambda secret: {"hosts": [f"amqp://user:{secret}@mq-a"]},
    "URL without a scheme": lambda secret: {"hosts": [f"user:{secret}@mq-a"]},
    "only the password": lambda secret: {"hosts": [secret]},
    "logging": lambda secret: {"logging": {"secret": secret}},
    "encryption": lambda secret: {"encryption": {"keys": [secret]}},
    "what is encrypted": lambda secret: {"encryption": {"keys": "k" * 20, "services": secret, "compress": secret}},
    "a Fernet key": lambda secret: {"hosts": [{"host": "mq-a", "fernet_key": secret}]},
    "a list too deep": lambda secret: {"secret_token": [[secret]]},
    "a mapping": lambda secret: {"password": {"is": secret}},
    "a number's place": lambda secret: {"port": secret},
    "a flag's place": lambda secret: {"tls": {"verify": secret}},
    "a section's place": lambda secret: {"logging": secret},
    "a choice's place": lambda secret: {"queue_type": secret},
    "an unknown key's value": lambda secret: {"passwrd": secret},
    "a service": lambda secret: {"services": [{"kind": secret, "target": secret}]},
}
BREAKS = [{}, {"prefech": 1}, {"prefetch": 0}, {"hosts": None}]


def everything_shown(error: ConfigurationError) -> str:
    """All that a log, a crash report or another process could show of an error."""
    traced = "".join(traceback.format_exception(error))
    return "\n".join([str(error), repr(error), traced, repr(vars(error)), ascii(pickle.loads(pickle.dumps(error)))])


def assert_hidden(secret: str, shown: str) -> None:
    for form in (secret, repr(secret)[1:-1], ascii(secret)[1:-1], quote(secret, safe="")):
        assert form not in shown


@pytest.mark.parametrize("place", PLACES)
@given(secret=SECRETS, breaks=st.sampled_from(BREAKS))
def test_a_secret_in_a_dict_never_shows(place: str, secret: str, breaks: dict[str, Any]) -> None:
    values = {"hosts": ["mq-a"], "secret_token": "x", **PLACES[place](secret), **breaks}
    try:
        config = Configuration(values)
    except ConfigurationError as error:
        assert_hidden(secret, everything_shown(error))
        assert secret.encode() not in pickle.dumps(error)
        return
    if place not in ("only the password", "a choice's place"):  # where it is a good host name, it is one
        assert_hidden(secret, f"{config!r} {config} {vars(config)} {config.hosts} {config.logging} {config.warnings}")


YAML_PLACES = [
    "secret_token: {}",
    "password: '{}",
    "hosts: [amqp://user:{}@mq-a]",
    "password: *{}",
    "password: !{} x",
    "password: &{}",
    "password: [{}",
    "port: {}",
    "logging: {{secret: {}}}",
    "logging: {{secret: {}",
]


@pytest.mark.parametrize("template", YAML_PLACES)
@given(secret=SECRETS.filter(lambda t: "\n" not in t and ":" not in t), quoted=st.booleans())
def test_a_secret_in_a_file_never_shows(template: str, secret: str, quoted: bool) -> None:
    """Written without quotes it may end the value, the line or the document: what PyYAML says then is not passed on."""
    text = "hosts: [mq-a]\n" + template.format(json.dumps(secret) if quoted else secret) + "\nprefech: 1\n"
    with pytest.raises(ConfigurationError) as caught:
        Configuration.parse(text, "bus.yaml")
    assert_hidden(secret, everything_shown(caught.value))


def test_a_secret_from_the_environment_at_the_wrong_key_never_shows() -> None:
    environment = {"PW": "hunter-two"}
    with pytest.raises(ConfigurationError) as caught:
        Configuration.parse("hosts: [a]\nsecret_token: s\nport: ${PW}", environment=environment)
    assert_hidden(environment["PW"], everything_shown(caught.value))


def test_a_configuration_can_be_logged() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    config = Configuration(
        {"hosts": ["amqp://u:hunter-two@mq-a"], "secret_token": "hunter-three", "password": "hunter-4"}
    )
    handler.emit(logging.makeLogRecord({"msg": "%s %r %s", "args": (config, config.hosts, vars(config))}))
    assert "mq-a:5672" in stream.getvalue()
    assert "hunter" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "password: x\nhosts: [{host: a, password: Zq7w,hunter2: z}]",
        "hosts: [{host: a, password: x,Zq7w-hunter2}]",
        "hosts: [{host: a, password:Zq7w-hunter2}]",
        "logging: {secret: a,Zq7w-hunter2}",
        "logging: {secret: a,Zq7w-hunter2,Zq7w-hunter2}",
        "password: a\nZq7w-hunter2: b",
        "password: a\nZq7w-hunter2: b\nZq7w-hunter2: c",
        "<<: {password: a,Zq7w-hunter2}",
    ],
)
def test_a_secret_that_yaml_took_for_a_key_never_shows(text: str) -> None:
    """A comma or colon in an unquoted text of a flow mapping begins another key."""
    with pytest.raises(ConfigurationError) as caught:
        Configuration.parse(f"secret_token: s\n{text}\n", "bus.yaml")
    assert_hidden("Zq7w", everything_shown(caught.value))
    assert_hidden("hunter2", everything_shown(caught.value))
    assert "bus.yaml:" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"secret_token": "s" * 16}, []),
        ({"secret_token": "ü" * 8}, []),
        ({"secret_token": "s" * 15}, ["secret_token is shorter than 16 bytes"]),
        ({"secret_token": ["a secret of sixteen", "short"]}, ["secret_token is shorter"]),
        ({"secret_token": "for trying out only"}, ["secret_token is the one of the samples"]),
        ({"secret_token": "s" * 16, "logging": {"secret": "short"}}, ["logging.secret is shorter"]),
    ],
)
def test_a_secret_that_does_not_protect_is_warned_of_when_a_program_starts(
    values: dict[str, Any], words: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any program that uses a Sender, once; and the secret is not in what is said."""
    monkeypatch.setattr(loggers, "_logged", set())
    host = {"host": "127.0.0.1", "port": 1, "tls": {"verify": False}, "use_ssl": True}
    config = Configuration({"hosts": [host], **values})
    for _ in range(2):
        with Sender(config) as sender:
            sender.status()
            with pytest.raises(ServiceBusError):
                sender.call("N.a.b", timeout=0.01)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    said = [text for text in said if "TLS" in text or "secret" in text]
    assert len(said) == 1 + len(words), said
    assert "not verified" in said[0]
    for word, text in zip(words, said[1:], strict=True):
        assert word in text
        assert "short" not in text.replace("shorter", "")


def test_the_secret_of_the_samples_is_the_one_that_is_warned_of() -> None:
    samples = set((Path(__file__).parents[2] / "conf").glob("*.yaml"))
    samples = {path for path in samples if path.name != "alerts.yaml"}  # that one is for Prometheus
    assert samples and all(f":-{PUBLIC_SECRET}}}" in path.read_text() for path in samples)


# -- objects that have one ---------------------------------------------------------------------------------------------

PLAIN, PASSWORD = "Zq7w-the-secret-of-the-bus", "Zq7w-the-password"


def configured() -> Configuration:
    hosts = ["mq-a", {"host": "mq-b", "user": "u", "password": PASSWORD}, f"amqp://u:{PASSWORD}@mq-c"]
    return Configuration(
        {
            "hosts": hosts,
            "password": PASSWORD,
            "secret_token": [PLAIN, PLAIN + "2"],
            "compat": True,
            "journal": f"redis://:{PASSWORD}@r/0",
            "logging": {"file": "bus.log", "port": 5500, "server": True},
        }
    )


def parts_of(thing: Any) -> Iterator[tuple[str, Any]]:
    """What *thing* holds, by its name."""
    if isinstance(thing, dict):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from (("[]", value) for value in thing)
    elif isinstance(thing, types.MethodType):
        yield "()", thing.__self__
    else:
        slots = [name for kind in type(thing).__mro__ for name in vars(kind).get("__slots__", ())]
        names = [*getattr(thing, "__dict__", {}), *slots, *(["func", "args"] if hasattr(thing, "func") else [])]
        yield from ((f".{name}", getattr(thing, name)) for name in names if hasattr(thing, name))


def leaked(root: Any) -> list[str]:
    """Where a secret stands in plain in what *root* is made of, or in the repr of that."""
    seen: dict[int, Any] = {}
    found, left = [], [(type(root).__name__, root)]
    while left:
        where, thing = left.pop()
        if id(thing) in seen or isinstance(thing, (types.ModuleType, type, types.FunctionType)):
            continue
        seen[id(thing)] = thing
        if PLAIN[:5] in (thing if isinstance(thing, str) else repr(thing)):
            found.append(where)
        if not isinstance(thing, (str, bytes, Secret)):
            left += [(where + name, part) for name, part in parts_of(thing)]
    return found


@pytest.mark.parametrize("make", [configured, lambda: Sender(configured()), lambda: ServiceBus(configured())])
def test_no_object_of_ours_shows_or_keeps_a_secret_in_plain(make: Callable[[], Any]) -> None:
    made = make()
    if isinstance(made, Sender):
        with made:
            made.status()
            assert leaked(made) == []
    assert leaked(made) == []


def test_nor_does_a_log_handler() -> None:
    handler = DatagramHandler("127.0.0.1", 1, (PLAIN,), threaded=False)
    assert leaked(handler) == []
    handler.close()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_has_the_secrets_and_shows_none(copied: Callable[[Any], Any]) -> None:
    config = copied(configured())
    assert config.secrets == (PLAIN, PLAIN + "2")
    assert config.hosts[1].password.reveal() == PASSWORD
    assert leaked(config) == []


def tell(config: Configuration, teller: Connection) -> None:
    teller.send(len(config.secrets[1]))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_may_be_started_with_a_configuration(method: str) -> None:
    """The default from Python 3.14 on is a forkserver."""
    context = multiprocessing.get_context(method)
    hearer, teller = context.Pipe(duplex=False)
    process = context.Process(target=tell, args=(configured(), teller))  # type: ignore[attr-defined]
    process.start()
    teller.close()
    assert hearer.recv() == len(PLAIN) + 1
    process.join()
