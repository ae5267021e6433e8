"""The Debian package in a clean Debian: installed, run by its units' command lines, upgraded, removed, purged."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clean_root import CHECKOUT, CleanRoot, build_packages, clean_root
from page_blocks import command_blocks
from unit_files import UnitProcess
from waiting import wait_until

from servicebus import Configuration, Sender
from servicebus.testing import Broker
from servicebus.testing.ports import free_ports

pytestmark = [
    pytest.mark.broker,
    pytest.mark.on_request,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.getuid() != 0 or not shutil.which("debootstrap"), reason="needs root and debootstrap, to make a Debian"
    ),
]
PAGE = CHECKOUT / "docs/install.rst"
VERSIONS = ["3.0.0", "3.0.1"]
SERVICES = '''
from servicebus import Services

group = Services("shop")

@group.rpc
def price(count: int) -> int:
    """What so many cost."""
    return count * {each}
'''
CONTROL = """\
Package: shop
Version: {version}
Architecture: all
Maintainer: Shop <shop@localhost>
Depends: servicebus
Description: services
"""


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def packages(suite: str) -> list[Path]:
    return build_packages(suite, VERSIONS)


@pytest.fixture
def root(suite: str) -> Iterator[CleanRoot]:
    with tempfile.TemporaryDirectory(prefix="servicebus-") as folder, clean_root(suite, Path(folder) / suite) as root:
        yield root


class Machine:
    """An administrator's hands on it."""

    def __init__(self, root: CleanRoot, brokers: list[Broker]):
        self.root = root
        self.hosts = [f"{broker.host}:{broker.port}" for broker in brokers]
        self.log_server = UnitProcess(root, "servicebus-logd")
        self.agent = UnitProcess(root, "servicebus-agent@", "shop")

    def configure(self) -> None:
        """By the lines of docs/install.rst; then for these brokers."""
        self.root.run("bash", "-ec", "\n".join(documented("cd /etc/servicebus")))
        sample = self.root.text("/etc/servicebus/shop.yaml")
        sample = sample.replace("[mq-a, mq-b]", str(self.hosts)).replace("user: bus", "user: guest")
        metrics, logs = free_ports(2)
        self.root.write("/etc/servicebus/shop.yaml", sample.replace("9464", str(metrics)).replace("5500", str(logs)))
        server = self.root.text("/etc/servicebus/logserver.yaml").replace("5500", str(logs))
        self.root.write("/etc/servicebus/logserver.yaml", server, 0o640)
        self.root.write("/etc/servicebus/credentials/password", "guest\n")
        self.secret = self.root.text("/etc/servicebus/credentials/secret").strip()
        self.sender = Sender(Configuration({"hosts": self.hosts, "secret_token": self.secret}))
        self.root.run("servicebus", "config", "check", "/etc/servicebus/shop.yaml")

    def price(self, count: int) -> object:
        return self.sender.call("SHOP.shop.price", {"count": count}, timeout=60)[1]

    def log(self) -> str:
        return self.root.text("/var/log/servicebus/servicebus.log")

    def installed(self, path: Path) -> str:
        """Put a package into the root and install it; returns what apt says."""
        shutil.copy(path, self.root.path / "tmp")
        said = self.root.run("apt-get", "install", "--yes", "--no-install-recommends", f"/tmp/{path.name}")
        (self.root.path / "tmp" / path.name).unlink()
        return said

    def install_services(self, each: int) -> str:
        """A package of somebody else, which holds nothing but the services."""
        self.root.write("/tmp/shop/usr/share/servicebus/services/shop/__init__.py", "")
        self.root.write(
            "/tmp/shop/usr/share/servicebus/services/shop/services.py", SERVICES.replace("{each}", str(each))
        )
        self.root.write("/tmp/shop/DEBIAN/control", CONTROL.replace("{version}", str(each)))
        self.root.run("dpkg-deb", "--root-owner-group", "--build", "/tmp/shop")
        said = self.root.run("dpkg", "--install", "/tmp/shop.deb")
        self.root.run("rm", "-r", "/tmp/shop", "/tmp/shop.deb")
        return said


def test_from_the_first_installation_to_the_purge(root: CleanRoot, packages: list[Path], brokers: list[Broker]) -> None:
    root.run("apt-get", "update")
    root.run("apt-get", "install", "--yes", "--no-install-recommends", "python3")
    before, accounts = root.files(), (root.text("/etc/passwd"), root.text("/etc/group"))

    installed(root, packages, brokers)

    root.run("apt-get", "purge", "--yes", "servicebus")
    assert root.files() - before == set()
    assert before - root.files() == set()
    assert (root.text("/etc/passwd"), root.text("/etc/group")) == accounts
    assert "servicebus" not in root.run("dpkg-query", "--show", "--showformat", "${Package}\\n")


def documented(start: str) -> list[str]:
    """The commands of docs/install.rst, from the one that begins so to the one that is systemd's."""
    (block,) = (each for each in command_blocks(PAGE) if each.commands[0].text.startswith(start))
    return [each.text for each in block.commands if not each.text.startswith("systemctl")]


def installed(root: CleanRoot, packages: list[Path], brokers: list[Broker]) -> None:
    """Everything between the installation and the removal."""
    shutil.copy(packages[0], root.path / "tmp")
    root.run("apt-get", "install", "--yes", "--no-install-recommends", f"/tmp/{packages[0].name}")
    (root.path / "tmp" / packages[0].name).unlink()
    assert "3.0.0" in root.run("servicebus", "--version")
    machine = Machine(root, brokers)
    recorded = record_systemctl(root)
    assert "Processing triggers for servicebus" in machine.install_services(each=3)
    machine.configure()
    assert recorded() == ["daemon-reload", "try-restart servicebus-agent@*.service"]

    machine.log_server.start()
    machine.agent.start()
    assert machine.price(2) == 6
    machine.agent.hears("WATCHDOG=1", 2)
    wait_until(lambda: "consuming for node SHOP" in machine.log(), 60, machine.log)
    assert machine.secret not in machine.log() + machine.agent.output()
    assert_nothing_of_the_machine_is_writable(root, machine.agent.pid)
    machine.agent.reload()
    machine.log_server.reload()
    assert machine.price(3) == 9
    assert "SHOP" in root.run("servicebus", "status", "-c", "/etc/servicebus/shop.yaml")

    kept = root.text("/etc/servicebus/logserver.yaml").replace("#  keep: 15", "  keep: 5")
    root.write("/etc/servicebus/logserver.yaml", kept, 0o640)
    said = machine.installed(packages[1])
    assert "Processing triggers for servicebus" not in said, "it would restart its agents twice"
    assert recorded() == ["daemon-reload", "try-restart servicebus-logd.service servicebus-agent@*.service"]
    assert machine.price(4) == 12, "an upgrade stops nothing until its restart"
    assert (machine.agent.stop(), machine.log_server.stop()) == (0, 0)
    assert root.text("/etc/servicebus/logserver.yaml") == kept
    assert "3.0.1" in root.run("servicebus", "--version")
    machine.install_services(each=5)
    recorded()
    machine.log_server.start()
    machine.agent.start()
    assert machine.price(2) == 10
    assert (machine.agent.stop(), machine.log_server.stop()) == (0, 0)
    machine.sender.close()

    root.run("dpkg", "--purge", "shop")
    root.run("apt-get", "remove", "--yes", "servicebus")
    assert recorded()[-3:] == ["stop servicebus-agent@*.service", "stop servicebus-logd.service", "daemon-reload"]
    left = {path.split("/")[0] for path in root.files() if "servicebus" in path}
    assert left == {"etc", "var"}, "configuration, journal and logs stay until it is purged"
    forget_systemctl(root)


def record_systemctl(root: CleanRoot) -> Callable[[], list[str]]:
    """Let the scripts of packages find a systemd that only notes what it is told; returns a function that reads it."""
    root.write("/usr/bin/systemctl", '#!/bin/sh\necho "$@" >>/run/systemctl.told\n', 0o755)
    (root.path / "run/systemd/system").mkdir(parents=True)
    told = root.path / "run/systemctl.told"

    def read() -> list[str]:
        lines = told.read_text().splitlines()
        told.unlink()
        return lines

    return read


def forget_systemctl(root: CleanRoot) -> None:
    root.run("rm", "-r", "/usr/bin/systemctl", "/run/systemd")


def assert_nothing_of_the_machine_is_writable(root: CleanRoot, pid: int) -> None:
    """To the user of the agent: the rights that the package gives its files, without what the unit adds to them."""
    user = re.search(r"^Uid:\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert user and user[1] != "0"
    script = textwrap.dedent("""
        find /usr /etc /opt -xdev -writable ! -type l -print 2>/dev/null
        cat /etc/servicebus/credentials/secret 2>&1
    """)
    said = root.run("setpriv", "--reuid=servicebus", "--regid=servicebus", "--init-groups", "sh", "-c", script + "true")
    assert said == "cat: /etc/servicebus/credentials/secret: Permission denied\n"
