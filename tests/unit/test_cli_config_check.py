"""`servicebus config check` and the import of service classes, on real files and modules."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import servicebus.testing
from servicebus.cli.main import servicebus as program
from servicebus.cli.run import build
from servicebus.configuration import Configuration

SERVICES = """
class Add:
    def on_call(self, request, response):
        response.send(sum(request.get_params()))

class Inner:
    class Note:
        def on_message(self, request):
            pass

class NeedsMore:
    def __init__(self, more):
        pass

class Silent:
    pass

from servicebus.middleware import Middleware

class Twice(Middleware):
    def serve(self, request, proceed):
        return 2 * proceed()

twice = Twice()

class Later:
    async def on_call(self, request, response):
        pass
"""


ROOT = Path(__file__).parents[2]
Check = Callable[..., tuple[Result, str]]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(program, list(arguments))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Check]:
    """Write a configuration with these services beside a module of service classes, and check it."""
    module = f"services_of_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(SERVICES)
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SERVICEBUS_CONFIG", raising=False)

    def run(*arguments: str, kind: str = "rpc", target: str = "MODULE:Add", more: str = "") -> tuple[Result, str]:
        path = tmp_path / "bus.yaml"
        target = target.replace("MODULE", module)
        path.write_text(
            f"hosts: [mq-a]\nnode_name: N\nsecret_token: hunter-two\nservices:\n"
            f"- {{kind: {kind}, category: math, name: add, target: '{target}'}}\n{more.replace('MODULE', module)}"
        )
        result = CliRunner().invoke(program, ["config", "check", str(path), *arguments])
        return result, str(path)

    yield run
    for name in (module, "broken_module"):
        sys.modules.pop(name, None)


def test_a_good_file_is_summed_up(check: Check) -> None:
    result, path = check()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:3] == [
        f"{path}: fine",
        "node    N",
        "host    mq-a:5672  user guest  TLS none",
    ]
    assert "rpc     N.math.add" in result.stdout


def test_machines_get_the_same_as_json_without_secrets(check: Check) -> None:
    result, path = check("--json")
    found = json.loads(result.stdout)
    assert (found["file"], found["node"], found["secrets"]) == (path, "N", 1)
    assert found["hosts"] == [{"name": "mq-a:5672", "user": "guest", "virtual_host": "/", "tls": "none"}]
    assert found["services"][0]["address"] == "N.math.add"
    assert "hunter-two" not in result.output


def test_a_class_inside_a_class_can_be_named(check: Check) -> None:
    assert check(kind="message", target="MODULE:Inner.Note")[0].exit_code == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"target": "no_such_module:Add"}, "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ({"target": "broken_module:Add"}, "cannot be imported: ZeroDivisionError: division by zero"),
        ({"target": "MODULE:Ad"}, "has no Ad"),
        ({"target": "MODULE:NeedsMore"}, "cannot be made without arguments: TypeError: "),
        ({"target": "MODULE:Silent"}, "has no on_call(), which a service of kind rpc needs"),
        ({"kind": "message"}, "has no on_message(), which a service of kind message needs"),
        ({"target": "MODULE:Later"}, "on_call() of Later is a coroutine function (async def)"),
    ],
)
def test_a_class_that_cannot_serve_is_named_with_its_line(check: Check, change: dict[str, str], text: str) -> None:
    result, path = check(**change)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"servicebus: {path}:5: services[0].target ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_middleware_is_made_or_taken_and_runs_around_the_services(check: Check) -> None:
    result, path = check(more="middleware: ['MODULE:Twice', 'MODULE:twice']\n")
    assert (result.exit_code, result.stderr) == (0, "")
    with servicebus.testing.bus(build(Configuration.load(path))) as world:
        assert world.sender.call("N.math.add", [1, 2])[1] == 12


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("no_such_module:Twice", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("MODULE:Thrice", "has no Thrice"),
        ("MODULE:NeedsMore", "cannot be made without arguments: TypeError: "),
        ("MODULE:Silent", "is no servicebus.middleware.Middleware but a Silent"),
        ("MODULE", "must be an import path such as package.module:name"),
    ],
)
def test_middleware_that_cannot_be_had_is_named(check: Check, target: str, text: str) -> None:
    result, path = check(more=f"middleware: ['{target}']\n")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"servicebus: {path}:") and text in result.stderr and "middleware" in result.stderr
    assert result.stderr.count("\n") == 1


def test_classes_are_left_alone_on_demand(check: Check) -> None:
    assert check("--no-import", target="no_such_module:Add")[0].exit_code == 0


def test_a_mistake_is_said_with_its_line_and_the_nearest_key(check: Check) -> None:
    result, path = check(more="prefech: 3\n")
    assert result.exit_code == 3
    assert result.stderr == f"servicebus: {path}:6: unknown key 'prefech'; did you mean 'prefetch'?\n"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("/", "journal / is a folder; name a file in it"),
        (".", "is a folder; name a file in it"),
        ("/dev/null", "journal /dev/null is no regular file; name a new path"),
        (
            "/etc/passwd/below/journal",
            "journal /etc/passwd/below/journal is inside /etc/passwd, which is no folder; name a path in a folder",
        ),
        (
            "http://u:secret@x/1",
            "journal http://x/1 begins with none of redis://, rediss://, unix://; a file is written as its path alone",
        ),
        ("redis://u:secret@r:1/0", "journal redis://r:1/0 needs pip install servicebus-failover[redis]"),
    ],
)
def test_a_journal_that_can_never_be_opened_is_said(
    check: Check, monkeypatch: pytest.MonkeyPatch, written: str, text: str
) -> None:
    monkeypatch.setattr("servicebus.runtime.journal.opening.find_spec", lambda _name: None)
    result, path = check(more=f"journal: '{written}'\n")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"servicebus: {path}: journal ")
    assert text in result.stderr
    ran = invoke("run", path)
    assert (ran.exit_code, ran.stderr.splitlines()[-1]) == (3, result.stderr.strip())


def test_the_journal_is_shown_without_its_password(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/state")
    assert json.loads(check("--json")[0].stdout)["journal"] == "/state/N.journal"
    assert "\njournal memory\n" in check(more="journal: memory\n")[0].stdout
    monkeypatch.setattr("servicebus.runtime.journal.opening.find_spec", lambda _name: True)
    assert "\njournal redis://r:1/0\n" in check(more="journal: 'redis://u:secret@r:1/0?password=x'\n")[0].stdout


def test_a_missing_tls_file_is_found_before_an_agent_finds_it(check: Check, tmp_path: Path) -> None:
    result, _ = check(more="tls: {ca: none.pem}\n")
    assert result.exit_code == 3
    assert "host mq-a:5671: tls.ca cannot be used" in result.stderr
    assert str(tmp_path / "none.pem") in result.stderr


def test_tls_without_verification_warns(check: Check) -> None:
    result, _ = check("--json", more="tls: {verify: false}\n")
    assert result.exit_code == 0
    assert result.stderr.startswith("servicebus: warning: mq-a:5671: the broker's TLS certificate is not verified")
    found = json.loads(result.stdout)
    assert (found["hosts"][0]["tls"], len(found["warnings"])) == ("not verified", 2)
    assert "secret_token is shorter than 16 bytes" in found["warnings"][1]


def test_secrets_that_do_not_protect_are_listed(check: Check) -> None:
    assert "\nwarning secret_token is shorter than 16 bytes" in check()[0].stdout
    for name in ("agent", "sender", "logserver"):
        stdout = invoke("config", "check", "--no-import", str(ROOT / "conf" / f"{name}.yaml")).stdout
        assert stdout.count("\nwarning ") == 1, stdout
        assert "is the one of the samples" in stdout


def test_a_log_servers_file_is_read_as_one(tmp_path: Path) -> None:
    path = str(ROOT / "conf" / "logserver.yaml")
    for arguments in ((path,), ("-c", path)):
        result = invoke("config", "check", *arguments)
        assert (result.exit_code, "fine, for servicebus-logd" in result.stdout) == (0, True)
    found = json.loads(invoke("config", "check", path, "--json").stdout)
    assert found["log_server"]["address"] == "127.0.0.1:5500"
    neither = tmp_path / "x.yaml"
    neither.write_text("secret_token: s\n")
    result = invoke("config", "check", str(neither))
    assert (result.exit_code, "the key 'hosts' is missing" in result.stderr) == (3, True)


TYPED = """
from servicebus.typed import Services

group = Services("math")
same = Services("math")
empty = Services("empty")
broken = Services("math")
number = 5

@group.rpc
def add(a: int, b: int) -> int:
    return a + b

@same.rpc(name="add")
@group.message(retry=(1,))
def note(text: str) -> None: ...

@broken.rpc
def wrong(a: "Missing") -> None: ...

def sub(a: int, b: int) -> int:
    return a - b
"""
Entries = Callable[[str], tuple[Result, str]]


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entries]:
    """Check a configuration with these lines in ``services:`` beside typed functions in a module and a distribution."""
    module = f"typed_of_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(TYPED)
    (tmp_path / "shop-1.0.dist-info").mkdir()
    (tmp_path / "shop-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (tmp_path / "shop-1.0.dist-info" / "entry_points.txt").write_text(
        f"[servicebus.services]\nshop = {module}:group\ngone = {module}:gone\nother = {module}:number\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delenv("SERVICEBUS_CONFIG", raising=False)

    def run(lines: str) -> tuple[Result, str]:
        path = tmp_path / "bus.yaml"
        lines = lines.replace("MODULE", module)
        path.write_text(f"hosts: [mq-a]\nnode_name: N\nsecret_token: hunter-two\nservices:\n{lines}")
        return CliRunner().invoke(program, ["config", "check", str(path)]), str(path)

    yield run
    sys.modules.pop(module, None)


ADD = "- {kind: rpc, category: math, name: add, "


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ("- group: 'MODULE:group'\n", "group   typed_of"),
        ("- group: 'MODULE:empty'\n", "group   typed_of"),
        ("- entry_point: shop\n", "entry_point shop"),
        (ADD + "function: 'MODULE:sub', threads: 3}\n", "rpc     N.math.add  typed_of"),
        (ADD.replace("add", "sub") + "function: 'MODULE:sub'}\n- group: 'MODULE:group'\n", "rpc     N.math.sub"),
    ],
)
def test_functions_and_groups_are_services(entries: Entries, lines: str, shown: str) -> None:
    result, _ = entries(lines)
    assert (result.exit_code, result.stderr) == (0, "") and shown in result.stdout


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("- group: 'no_such_module:group'\n", "group no_such_module:group: cannot be imported: ModuleNotFoundError"),
        ("- group: 'MODULE:none'\n", "has no none"),
        ("- group: 'MODULE:number'\n", "is no group (servicebus.typed.Services) but a int"),
        ("- group: 'MODULE:broken'\n", "the signature of wrong cannot be read: NameError"),
        ("- group: 'MODULE'\n", "services[0].group must be an import path such as package.module:name"),
        ("- {group: 'MODULE:group', threads: 2}\n", "services[0].threads does not go with group"),
        ("- {group: 'MODULE:group', entry_point: shop}\n", "takes one of group and entry_point, not both"),
        (
            "- entry_point: shap\n",
            "no installed distribution has it in servicebus.services; there is: gone, other, shop",
        ),
        ("- entry_point: gone\n", "services[0].entry_point gone: typed_of"),
        ("- entry_point: other\n", "is no group"),
        ("- entry_point: '*'\n", "services[0].entry_point *: typed_of"),
        (ADD + "function: 'MODULE:number'}\n", "is no function; the key for a class is target"),
        (ADD + "function: 'MODULE:sub', lock: a, concurrency: node}\n", "takes one of lock, concurrency and singleton"),
    ],
)
def test_a_group_that_cannot_serve_is_one_line(entries: Entries, lines: str, text: str) -> None:
    result, path = entries(lines)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"servicebus: {path}:5: ") and text in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "second", ["- group: 'MODULE:same'\n", "- entry_point: shop\n", ADD + "function: 'MODULE:sub'}\n"]
)
def test_a_service_that_is_there_already_names_both_entries(entries: Entries, second: str) -> None:
    result, path = entries("- group: 'MODULE:group'\n" + second)
    assert result.exit_code == 3
    assert f"{path}:6: services[1]." in result.stderr and "has math.add, which services[0] has, too" in result.stderr


def test_each_mistake_of_a_file_is_named_and_what_is_right_is_not(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    lines = [
        "hosts: [{host: mq-a, port: many}, mq-b]",
        "call_timeout: never",
        "node_name: a.b",
        "prefetch: 512",
        "services:",
        "  - {kind: rpc, category: math, name: add, target: 'm:Add', threads: none}",
        "  - {kind: message, category: math, name: note, target: 'm:Note', retry: [0]}",
        "logging: {level: LOUD, port: 99999}",
        "nodename: NODE-01",
    ]
    file.write_text("\n".join(lines))
    done = invoke("config", "check", str(file))
    said = done.stderr.splitlines()
    assert done.exit_code == 3 and done.stdout == ""
    places = sorted(line.split(": ")[1].removeprefix(f"{file}:") for line in said)
    assert places == ["1", "1", "2", "3", "6", "7", "8", "8", "9"], said
    assert "the key 'secret_token' is missing" in done.stderr
    as_json = json.loads(invoke("config", "check", "--json", str(file)).stderr)
    assert [as_json["message"], *as_json["further"]] == [line.removeprefix("servicebus: ") for line in said]


@pytest.mark.parametrize("text", ["hosts: [", "", "[]", "hosts: {}\nhosts: {}", "secret_token: !file nothing"])
def test_a_file_that_is_no_mapping_has_one_mistake(tmp_path: Path, text: str) -> None:
    (tmp_path / "agent.yaml").write_text(text)
    done = invoke("config", "check", str(tmp_path / "agent.yaml"))
    assert done.exit_code == 3 and len(done.stderr.splitlines()) <= 2, done.stderr
