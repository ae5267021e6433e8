"""``servicebus setup``: what each step does, that it takes nothing away, and how rabbitmqctl is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servicebus.cli.main import servicebus
from servicebus.configuration import Configuration, Secret
from servicebus.errors import ConnectFailed
from servicebus.operations.administration import CtlAdministration
from servicebus.operations.broker_setup import setup_steps

NODE, PASSWORD = "NODE-01", "not to be seen"


class Administered:
    """A broker as far as its administrator sees it."""

    def __init__(self, version: str = "3.10.8"):
        self.version = version
        self.virtual_hosts: set[str] = set()
        self.users: dict[str, str] = {}
        self.rights: dict[tuple[str, str], Mapping[str, str]] = {}
        self.exchanges: dict[str, str] = {}
        self.policies: dict[str, Mapping[str, Any]] = {}

    def has_virtual_host(self, name: str) -> bool:
        return name in self.virtual_hosts

    def add_virtual_host(self, name: str) -> None:
        self.virtual_hosts.add(name)

    def has_user(self, name: str) -> bool:
        return name in self.users

    def add_user(self, name: str, password: Secret) -> None:
        self.users[name] = password.reveal()

    def permissions(self, virtual_host: str, user: str) -> Mapping[str, str]:
        return self.rights.get((virtual_host, user), {})

    def set_permissions(self, virtual_host: str, user: str, rights: Mapping[str, str]) -> None:
        self.rights[virtual_host, user] = rights

    def has_exchange(self, virtual_host: str, name: str) -> bool:
        return name in self.exchanges

    def add_exchange(self, virtual_host: str, name: str, kind: str) -> None:
        self.exchanges[name] = kind

    def policy(self, virtual_host: str, name: str) -> Mapping[str, Any] | None:
        return self.policies.get(name)

    def set_policy(self, virtual_host: str, name: str, policy: Mapping[str, Any]) -> None:
        self.policies[name] = policy


def configuration(**settings: Any) -> Configuration:
    host = {"host": "mq-a", "user": "bus", "password": PASSWORD, "virtual_host": "bus"}
    return Configuration({"hosts": [host], "secret_token": "a secret of the test", "node_name": NODE, **settings})


def set_up(admin: Administered, *nodes: str, **settings: Any) -> list[str]:
    """What was needed; done."""
    config, needed = configuration(**settings), []
    for step in setup_steps(admin, config.hosts[0], config, nodes, has_events=False):
        assert PASSWORD not in step.what
        if step.is_needed:
            needed.append(step.what)
            step.do()
    return needed


def test_a_new_broker_gets_everything_and_the_second_time_nothing() -> None:
    admin = Administered()
    assert [what.split()[0] for what in set_up(admin, NODE)] == ["add", "add", "let", "declare", "declare"]
    assert admin.users == {"bus": PASSWORD}
    assert admin.exchanges == {"servicebus": "direct", "servicebus.events": "topic"}
    assert set_up(admin, NODE) == []


def test_rights_are_added_and_none_is_taken() -> None:
    admin = Administered()
    set_up(admin, NODE)
    (what,) = set_up(admin, "NODE-02")
    assert what.startswith("let user bus configure")
    assert set_up(admin, NODE) == set_up(admin, "NODE-02") == []
    admin.rights["bus", "bus"] = {"configure": ".*", "write": "^mine$", "read": ".*"}
    set_up(admin, NODE)
    after = admin.rights["bus", "bus"]
    assert (after["configure"], after["read"]) == (".*", ".*") and after["write"].startswith("^mine$|")


def test_a_pattern_is_shown_as_it_can_be_pasted() -> None:
    admin = Administered()
    set_up(admin, NODE)
    admin.rights["bus", "bus"] = {"configure": r"^mine\.q$", "write": "", "read": ".*"}
    (what,) = set_up(admin, NODE)
    rights = admin.rights["bus", "bus"]
    assert rights["configure"].startswith(r"^mine\.q$|")
    assert what == f"let user bus configure '{rights['configure']}' write '{rights['write']}' read '.*'"


def test_a_sender_gets_less_than_an_agent() -> None:
    admin = Administered()
    set_up(admin)
    assert admin.rights["bus", "bus"]["configure"] == "^$" and "NODE" not in admin.rights["bus", "bus"]["write"]
    assert set_up(admin) == []


def test_quorum_queues_get_a_policy_where_the_broker_has_a_limit() -> None:
    old, new = Administered("3.13.7"), Administered("4.0.5")
    for admin in (old, new):
        set_up(admin, NODE, queue_type="quorum")
        assert set_up(admin, NODE, queue_type="quorum") == []
    assert old.policies == {}
    assert new.policies["servicebus"]["definition"] == {"delivery-limit": -1}


@pytest.fixture
def ctl(tmp_path: Path) -> Path:
    """A program in the place of rabbitmqctl that notes its arguments and its input."""
    path = tmp_path / "rabbitmqctl"
    path.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$*" >> {tmp_path}/arguments\n'
        '[ "$1" = --quiet ] && shift\n'
        'case "$1" in\n'
        '  list_vhosts) echo \'[{"name": "bus"}]\';;\n'
        f"  add_user) cat > {tmp_path}/input;;\n"
        '  list_users) echo "[]";;\n'
        '  list_permissions) echo "no JSON";;\n'
        '  eval) echo "{ok,1800000}";;\n'
        '  set_policy) echo "no such policy" >&2; exit 70;;\n'
        "esac\n"
    )
    path.chmod(0o755)
    return path


def test_rabbitmqctl_is_given_the_password_where_nobody_sees_it(ctl: Path) -> None:
    config = configuration()
    admin = CtlAdministration(config.hosts[0], config, f"env {ctl}")
    assert admin.has_virtual_host("bus") and not admin.has_user("bus")
    admin.add_user("bus", Secret(PASSWORD))
    admin.set_permissions("bus", "bus", {"configure": "a", "write": "b", "read": "c"})
    assert (ctl.parent / "input").read_text() == f"{PASSWORD}\n"
    arguments = (ctl.parent / "arguments").read_text().splitlines()
    assert arguments[-2:] == ["add_user bus", "--quiet set_permissions -p bus bus a b c"]
    assert PASSWORD not in " ".join(arguments)
    assert admin.consumer_timeout_s() == 1800.0


def test_what_rabbitmqctl_says_is_the_error(ctl: Path) -> None:
    config = configuration()
    admin = CtlAdministration(config.hosts[0], config, str(ctl))
    policy = {"pattern": "x", "definition": {}, "apply-to": "queues", "priority": 0}
    with pytest.raises(ConnectFailed, match="set_policy failed: no such policy"):
        admin.set_policy("bus", "servicebus", policy)
    with pytest.raises(ConnectFailed, match="something else than JSON"):
        admin.permissions("bus", "bus")
    with pytest.raises(ConnectFailed, match="cannot be run: No such file"):
        CtlAdministration(config.hosts[0], config, str(ctl) + "-none").has_user("bus")


def write(tmp_path: Path, **settings: Any) -> str:
    path = tmp_path / "agent.yaml"
    path.write_text(json.dumps({"secret_token": "a secret of the test", "node_name": NODE, **settings}))
    return str(path)


def test_the_command_needs_a_way_to_the_broker(tmp_path: Path) -> None:
    path = write(tmp_path, hosts=["mq-a", "mq-b"])
    done = CliRunner().invoke(servicebus, ["setup", "-c", path])
    assert done.exit_code == 2 and "name its management API" in done.output
    done = CliRunner().invoke(servicebus, ["setup", "-c", path, "--rabbitmqctl", "rabbitmqctl"])
    assert done.exit_code == 2 and "say of which broker" in done.output
    done = CliRunner().invoke(servicebus, ["setup", "-c", path, "--management", f"mq-a=ftp://admin:{PASSWORD}@mq-a"])
    assert done.exit_code == 2 and PASSWORD not in done.output


def test_brokers_that_cannot_be_set_up_are_named(tmp_path: Path) -> None:
    url = f"http://admin:{PASSWORD}@127.0.0.1:1"
    path = write(tmp_path, hosts=[{"host": "mq-a", "management": url}])
    done = CliRunner().invoke(servicebus, ["setup", "-c", path, "--dry-run"])
    assert done.exit_code == 4 and "mq-a:5672" in done.stderr and PASSWORD not in done.output
