"""The image of packaging/container, built by buildah; its commands run as in a container, on a root to read only."""

from __future__ import annotations

import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from clean_root import CHECKOUT
from image import Image, built_image
from waiting import wait_until

from servicebus import Configuration, Sender
from servicebus.testing import Broker
from servicebus.testing.ports import free_ports

pytestmark = [
    pytest.mark.broker,
    pytest.mark.on_request,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.getuid() != 0 or not (shutil.which("buildah") and shutil.which("debootstrap")),
        reason="needs root, buildah, and debootstrap for the Debian it builds on",
    ),
]
SECRET = "a secret that only this bus knows"
SERVICES = '''
import os, subprocess
from servicebus import Services

group = Services("shop")

@group.rpc
def leave_an_orphan() -> int:
    """A process whose parent ends at once; returns its id."""
    return int(subprocess.check_output(["sh", "-c", "sleep 0.1 >/dev/null & echo $!"]))

@group.rpc
def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
'''


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with built_image("trixie", tmp_path_factory.mktemp("image")) as image:
        yield image


@pytest.fixture
def hosts(brokers: list[Broker]) -> list[str]:
    return [f"{broker.host}:{broker.port}" for broker in brokers]


@pytest.fixture
def metrics_port(image: Image, hosts: list[str]) -> int:
    """With the files of packaging/kubernetes, for these brokers."""
    (port,) = free_ports(1)
    sample = (CHECKOUT / "packaging/kubernetes/agent.yaml").read_text().replace("[mq-a, mq-b]", str(hosts))
    sample = sample.replace("user: bus", "user: guest")
    sample = re.sub(r"^metrics: .*", f"metrics: {{port: {port}}}", sample, flags=re.MULTILINE)
    image.put("/etc/servicebus/agent.yaml", sample)
    image.put("/run/secrets/secret", SECRET + "\n")
    image.put("/run/secrets/password", "guest\n")
    image.put("/srv/services/shop/__init__.py", "")
    image.put("/srv/services/shop/services.py", SERVICES)
    return port


def test_its_command_is_an_agent_that_drains_on_term(image: Image, hosts: list[str], metrics_port: int) -> None:
    with image.started() as agent, Sender(Configuration({"hosts": hosts, "secret_token": SECRET})) as sender:
        wait_until(lambda: page(metrics_port, "readyz") == 200, 60, agent.output)
        orphan = sender.call("SHOP.shop.leave_an_orphan", {}, timeout=60)[1]
        assert 1 in sender.call("SHOP.shop.processes", {}, timeout=60)[1]
        wait_until(
            lambda: orphan not in sender.call("SHOP.shop.processes", {}, timeout=60)[1], 30, "an orphan is reaped"
        )
        agent.terminate()
        assert agent.wait() == 0, agent.output()
    assert SECRET not in agent.output()


def test_doctor_finds_nothing_wrong(image: Image, metrics_port: int) -> None:
    with image.started() as agent:
        wait_until(lambda: "consuming for node SHOP" in agent.output(), 60, agent.output)
        image.run("doctor", "-c", "/etc/servicebus/agent.yaml")


def test_it_has_the_console(image: Image, metrics_port: int) -> None:
    (port,) = free_ports(1)
    with image.started("web", "-c", "/etc/servicebus/agent.yaml", "--port", str(port)) as console:
        wait_until(lambda: "the console is on" in console.output(), 60, console.output)
        assert page(port, "") == 200
        console.terminate()
        assert console.wait() == 0, console.output()


def page(port: int, path: str) -> int:
    """The status of the answer; 0 where nobody listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except URLError:
        return 0


def test_what_it_needs_is_there_and_no_more(image: Image) -> None:
    assert not Path(image.path / "opt/servicebus/bin/pip").exists()
    assert image.settings["User"] == "10001:10001" and image.settings["StopSignal"] == "SIGTERM"
    assert "3." in image.run("--version")
