"""The command line as a whole: one clear line and a documented exit status for every error, help, completion."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from servicebus import __version__, errors
from servicebus.cli.broker import _facts as broker_facts
from servicebus.cli.broker import _line as broker_line
from servicebus.cli.exit_codes import ExitCode, exit_code_of
from servicebus.cli.group import CommandGroup
from servicebus.cli.main import COMMANDS, COMPLETION_VARIABLE, PROGRAM, servicebus
from servicebus.cli.options import json_option, params_argument
from servicebus.cli.output import note, said_while_waiting

ROOT = Path(__file__).parents[2]
SENDER = str(ROOT / "conf" / "sender.yaml")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICEBUS_CONFIG", "SERVICEBUS_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, command: click.Command = servicebus, **options: Any) -> Result:
    return CliRunner().invoke(command, list(arguments), **options)


ATTEMPTS = [("mq-a:5672", "refused")]
CREDENTIALS = errors.ConnectFailed("mq-a:5672", "ACCESS_REFUSED", kind="credentials")


def caused_by(error: errors.ServiceBusError, cause: BaseException) -> errors.ServiceBusError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError("x"), 3),
        (errors.AddressError("x", "no dots"), 2),
        (errors.EnvelopeError("unencodable", "set"), 2),
        (errors.SignatureError(), 6),
        (errors.ConnectFailed("mq-a:5672", "refused", kind="refused"), 4),
        (CREDENTIALS, 6),
        (errors.ConnectFailed("mq-a:5672", "self-signed", kind="tls"), 6),
        (errors.NoBrokerAvailable("N", ATTEMPTS), 4),
        (caused_by(errors.NoBrokerAvailable("N", ATTEMPTS), CREDENTIALS), 6),
        (errors.NodeUnavailable("N.a.b", ATTEMPTS), 4),
        (caused_by(errors.NodeUnavailable("N.a.b", ATTEMPTS), errors.SignatureError()), 6),
        (errors.OutboxFull("N.a.b", "/var/spool/n", 10, 4096), 4),
        (errors.OutboxUnavailable("/var/spool/n", "is on a read-only file system"), 3),
        (errors.CallTimeout("N.a.b", 3.0), 5),
        (errors.CallRefused("N.a.b", "stale"), 6),
        (errors.CallInterrupted("N.a.b", "path died"), 7),
        (errors.StreamInterrupted("N.a.b", 3, "path died"), 7),
        (errors.SendUnconfirmed("N.a.b", ATTEMPTS), 7),
        (errors.ConnectionLost("mq-a:5672", "reset", sent=True), 7),
        (errors.ConnectionLost("mq-a:5672", "reset", sent=False), 4),
        (errors.UnknownService("N.a.b"), 8),
        (errors.ServiceBusy("N.a.b"), 9),
        (errors.RemoteError("N.a.b", "ValueError", "bad"), 1),
        (errors.LifecycleError("closed", "call"), 1),
        (errors.JournalUnavailable("/var/lib/n", "the disk is full"), 1),
    ],
)
def test_every_error_has_its_exit_status(error: errors.ServiceBusError, code: int) -> None:
    assert exit_code_of(error) == code


def test_every_error_of_ours_is_thought_of() -> None:
    """A class that is added to the tree without a thought would end as 1, "the service failed"."""
    plain_failures = {
        errors.ServiceBusError,
        errors.TransportError,
        errors.CallError,
        errors.RemoteError,
        errors.InvalidReply,
        errors.LifecycleError,
        errors.JournalUnavailable,  # an agent's own disk or server; no command that asks for something gets it
    }
    for name in errors.__all__:
        kind = getattr(errors, name)
        if kind not in plain_failures:
            error = kind.__new__(kind)
            error.kind, error.sent, error.reason = "refused", True, "stale"  # what some of them are asked for
            assert exit_code_of(error) != ExitCode.FAILED, name


def test_the_docs_list_every_exit_status() -> None:
    text = (ROOT / "docs" / "cli.rst").read_text()
    listed = {
        name: int(number) for number, name in re.findall(r"^   \* - (\d+)\n     - ``(\w+)``$", text, re.MULTILINE)
    }
    assert listed == {code.name: code.value for code in ExitCode}


def test_the_docs_name_every_command() -> None:
    text = (ROOT / "docs" / "cli.rst").read_text()
    for name in COMMANDS:
        assert re.search(rf"^``{name}\b", text, re.MULTILINE), name


def group_that(action: Callable[[], None]) -> CommandGroup:
    """The real group, with one command that does *action*."""

    @click.group(cls=CommandGroup)
    @json_option
    def group() -> None:
        pass

    @group.command("do")
    @json_option
    def do() -> None:
        action()

    return group


def failing(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_an_error_is_one_line_on_stderr_without_a_traceback() -> None:
    result = run("do", command=group_that(failing(errors.CallTimeout("N.a.b", 3.0, ATTEMPTS))))
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == "servicebus: N.a.b: no reply within 3 s; tried mq-a:5672 refused\n"


def test_an_error_of_many_lines_is_still_one_line() -> None:
    """A remote exception brings any text; a log of failures has one line for each."""
    result = run("do", command=group_that(failing(errors.RemoteError("N.a.b", "ValueError", "one\n  two\r\nthree"))))
    assert (result.exit_code, result.stderr) == (1, "servicebus: N.a.b: ValueError: one two three\n")


@pytest.mark.parametrize("arguments", [("--json", "do"), ("do", "--json")])
def test_an_error_for_machines_is_a_document_on_stderr(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, command=group_that(failing(errors.UnknownService("N.a.b"))))
    assert (result.exit_code, result.stdout) == (8, "")
    assert json.loads(result.stderr) == {
        "error": "UnknownService",
        "message": "N.a.b: the node has no such service",
        "exit_code": 8,
    }


def test_an_error_that_should_not_be_is_one_line_too() -> None:
    result = run("do", command=group_that(failing(TypeError("oops"))))
    assert (result.exit_code, result.stderr) == (
        70,
        "servicebus: unexpected TypeError: oops; SERVICEBUS_TRACEBACK=1 shows where\n",
    )


@pytest.mark.parametrize("error", [TypeError("oops"), errors.CallTimeout("N.a.b", 3.0)])
def test_the_traceback_is_there_for_who_asks(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = run("do", command=group_that(failing(error)))
    monkeypatch.setenv("SERVICEBUS_TRACEBACK", "1")
    traced = run("do", command=group_that(failing(error)))
    assert traced.exit_code == usual.exit_code
    assert traced.stderr.startswith("Traceback (most recent call last):\n")
    assert traced.stderr.endswith(f"{type(error).__name__}: {error}\n{usual.stderr}")


def test_ctrl_c_ends_with_130_and_says_nothing() -> None:
    result = run("do", command=group_that(failing(KeyboardInterrupt())))
    assert (result.exit_code, result.output) == (130, "")


def test_the_version_is_that_of_the_package() -> None:
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"servicebus, version {__version__}\n")


def test_help_names_every_command_and_the_exit_statuses() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in (*COMMANDS, "130 Ctrl-C"):
        assert name in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("cal",), "No such command 'cal'. Did you mean 'call'?"),
        (("staus",), "No such command 'staus'. Did you mean 'status'?"),
        (("dead", "lst"), "No such command 'lst'. Did you mean 'list'?"),
        (("call", "N.a.b"), "no configuration: name it by -c FILE, or $SERVICEBUS_CONFIG"),
        (("run",), "no configuration: name it by -c FILE or as the argument FILE, or $SERVICEBUS_CONFIG"),
        (("run", SENDER, "-c", SENDER), "named twice"),
        (("call", "N.a.b", '{"a": {"b": 1, "b": 2}}', "-c", SENDER), 'the key "b" stands twice in an object'),
        (("call", "N.a.b", "1", "--timeout", "nan"), "'nan' is not a number of seconds"),
        (("call", "N.a.b", "1", "--timeout", "inf"), "'inf' is not a number of seconds"),
        (("ping", "PLAY-01.t.echo", "-c", SENDER), "ping takes a node: PLAY-01"),
        (("ping", "N", "--timeout", "-1"), "Invalid value for '--timeout'"),
        (("call", "N.a.b", "{", "-c", SENDER), "not JSON"),
        (("call", "N.a.b", "NaN", "-c", SENDER), "NaN is no JSON"),
        (("call", "N.a.b", "[" * 100_000, "-c", SENDER), "not JSON"),
        (("call", "N.a.b", "1", "--timeout", "0"), "Invalid value for '--timeout'"),
        (("status",), "say which agent: FILE, -c FILE, $SERVICEBUS_CONFIG or --socket PATH"),
    ],
)
def test_wrong_arguments_end_with_2(arguments: tuple[str, ...], text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["k"], "one is not KEY=VALUE"),
        (["=v"], "the key '' is not 1 to 64 of the characters"),
        (["K=v"], "the key 'K' is not 1 to 64 of the characters"),
        (["k=a", "k=b"], "a key is there twice"),
        (["k=" + "v" * 5000], "5008 bytes as JSON; 4096 are allowed"),
        (["k=hunter2\n"], "the value of k holds a control character"),
        (["hunter2"], "one is not KEY=VALUE"),
    ],
)
@pytest.mark.parametrize("command", ["call", "send", "publish"])
def test_a_context_that_is_none_is_a_usage_error(command: str, texts: list[str], complaint: str) -> None:
    done = run(command, "N.c.s", *(word for text in texts for word in ("--context", text)))
    assert done.exit_code == 2 and complaint in " ".join(done.stderr.split())
    assert "hunter2" not in done.output


@pytest.mark.parametrize("arguments", [("call", "N.a.b"), ("send", "N.a.b"), ("publish", "a.b"), ("ping", "N")])
def test_an_unreadable_configuration_ends_with_3_before_anything_is_sent(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    path = str(tmp_path / "none.yaml")
    for result in (run(*arguments, "-c", path), run(*arguments, env={"SERVICEBUS_CONFIG": path})):
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr == f"servicebus: {path}: cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("text", "value"), [("[1, 2]", [1, 2]), ('"ä"', "ä"), ("null", None), ("-", {"from": "stdin"})]
)
def test_parameters_are_json_or_stdin(text: str, value: Any) -> None:
    @click.command()
    @params_argument
    def show(params: Any) -> None:
        click.echo(json.dumps(params))

    assert json.loads(run(text, command=show, input='{"from": "stdin"}').stdout) == value


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_asks_this_program(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert COMPLETION_VARIABLE in result.output
    assert run("completion", env={"SHELL": f"/usr/bin/{shell}"}).output == result.output


def test_a_shell_without_completion_is_a_usage_error() -> None:
    result = run("completion", env={"SHELL": "/bin/dash"})
    assert result.exit_code == 2
    assert "bash, zsh, fish" in result.stderr


def test_the_shell_is_told_commands_and_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    completions = {"servicebus con": ["config", "contract"], "servicebus call --t": ["--timeout", "--trace"]}
    for typed, wanted in completions.items():
        monkeypatch.setenv(COMPLETION_VARIABLE, "bash_complete")
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
        with pytest.raises(SystemExit):
            servicebus(prog_name=PROGRAM, complete_var=COMPLETION_VARIABLE)
        assert [line.partition(",")[2] for line in capsys.readouterr().out.split()] == wanted


def test_a_private_broker_that_is_down_has_no_pid() -> None:
    facts = {"name": "a", "url": "amqp://x", "log_path": "/log"}
    up, down = SimpleNamespace(pid=7, state="running", **facts), SimpleNamespace(pid=0, state="down", **facts)
    assert broker_line(up) == "a  amqp://x  pid 7  running  /log"  # type: ignore[arg-type]
    assert broker_line(down) == "a  amqp://x  down  /log"  # type: ignore[arg-type]
    for broker in (up, down):
        vars(broker).update(host="h", port=1, log_path="/log")
    assert [broker_facts(broker)["pid"] for broker in (up, down)] == [7, None]  # type: ignore[arg-type]


def test_a_command_that_takes_long_says_on_stderr_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    said = threading.Event()

    def tell(text: str) -> None:
        note(text)
        said.set()

    with said_while_waiting("the broker", tell, after_s=0.01):
        assert said.wait(30)
    with said_while_waiting("another", after_s=30.0):
        pass
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"servicebus: still waiting for the broker \(\d+ s\)\n", printed.err)
