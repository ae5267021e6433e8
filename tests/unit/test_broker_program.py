"""Finding RabbitMQ's programs, on folders made for the test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from servicebus.testing import BrokerProgramMissing, find_broker_program
from servicebus.testing import program as program_module
from servicebus.testing.ports import free_ports
from servicebus.testing.program import make_lean_home, write_preload


def make_script(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without RabbitMQ, whose PATH is one empty folder."""
    monkeypatch.delenv("SERVICEBUS_RABBITMQ_SERVER", raising=False)
    monkeypatch.setattr(program_module, "_OWN_FOLDERS", (tmp_path / "rabbitmq" / "bin",))
    monkeypatch.setattr(program_module, "_folders_on_path", lambda: [tmp_path / "bin"])
    return tmp_path


def test_a_missing_program_names_the_package_to_install(empty_machine: Path) -> None:
    with pytest.raises(BrokerProgramMissing, match="apt-get install rabbitmq-server"):
        find_broker_program()


def test_the_wrapper_of_a_package_is_passed_over_for_the_script_behind_it(empty_machine: Path) -> None:
    """The wrapper changes to another user and to the system's folders."""
    wrapper = make_script(empty_machine / "lib" / "rabbitmq-script-wrapper")
    (empty_machine / "bin").mkdir()
    (empty_machine / "bin" / "rabbitmq-server").symlink_to(wrapper)
    with pytest.raises(BrokerProgramMissing):
        find_broker_program()
    script = make_script(empty_machine / "rabbitmq" / "bin" / "rabbitmq-server")
    assert find_broker_program() == script


def test_the_environment_chooses_the_program(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = make_script(empty_machine / "elsewhere" / "rabbitmq-server")
    monkeypatch.setenv("SERVICEBUS_RABBITMQ_SERVER", str(script))
    assert find_broker_program() == script


def make_installation(root: Path) -> Path:
    for name, needs in {"rabbit": "kernel, ra", "ra": "stdlib,\n gen", "gen": "", "rabbitmq_mqtt": "rabbit"}.items():
        ebin = root / "plugins" / f"{name}-1.2.3" / "ebin"
        ebin.mkdir(parents=True)
        (ebin / f"{name}.app").write_text(f"{{application, {name}, [{{applications, [{needs}]}}]}}.")
    return make_script(root / "sbin" / "rabbitmq-server")


def test_the_lean_home_holds_what_the_broker_depends_on_and_no_plug_in(tmp_path: Path) -> None:
    script = make_installation(tmp_path / "original")
    sbin = make_lean_home(script, tmp_path / "lean")
    assert sbin == tmp_path / "lean" / "sbin"
    assert (sbin / "rabbitmq-server").is_file()
    assert {path.name for path in (tmp_path / "lean" / "plugins").iterdir()} == {
        "rabbit-1.2.3",
        "ra-1.2.3",
        "gen-1.2.3",
    }


def test_the_lean_home_can_be_made_again(tmp_path: Path) -> None:
    script = make_installation(tmp_path / "original")
    assert make_lean_home(script, tmp_path / "lean") == make_lean_home(script, tmp_path / "lean")


def test_an_installation_of_another_shape_gets_no_lean_home(tmp_path: Path) -> None:
    script = make_script(tmp_path / "bin" / "rabbitmq-server")
    assert make_lean_home(script, tmp_path / "lean") is None


def test_ports_are_different_and_never_those_of_outgoing_connections() -> None:
    """A client that keeps dialling such a port on loopback can be connected to itself."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < max(first_outgoing, 32_768)


FIVE_ASK = """
import os, sys
from servicebus.testing.ports import free_ports
children = []
while len(children) < 4 and (not children or children[-1]):
    children.append(os.fork())
os.write(1, f"{' '.join(map(str, free_ports(100)))}\\n".encode())  # in one piece
sys.stdin.read()
if children[-1]:
    for child in children:
        os.waitpid(child, 0)
"""


def test_a_port_is_nobody_elses_for_as_long_as_its_process_lives() -> None:
    """Nobody listens on any of them meanwhile, as on that of a broker that is down."""
    with subprocess.Popen(
        [sys.executable, "-c", FIVE_ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        taken = [port for _ in range(5) for port in program.stdout.readline().split()]
    assert len(set(taken)) == len(taken) == 500


def test_a_folder_that_erlangs_flags_cannot_name_is_started_without_them(tmp_path: Path) -> None:
    path = tmp_path / "preload.eval"
    assert write_preload(path, ["rabbitmq_management"]) == f'-eval file:eval(\\"{path}\\").'
    assert "All([rabbit, rabbitmq_management, kernel," in path.read_text()
    for name in ("with space", 'quote"d', "it's", "back\\slash"):
        (folder := tmp_path / name).mkdir()
        assert write_preload(folder / "preload.eval") == ""
