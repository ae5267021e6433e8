"""The programs of examples/asyncio, against a real agent; those for frameworks where these are installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import Agent
from waiting import wait_until

from servicebus.testing import Broker
from servicebus.testing.ports import LOOPBACK, free_ports

StartAgent = Callable[..., Agent]

EXAMPLES = Path(__file__).parents[2] / "examples" / "asyncio"
SECRET = "a secret that no warning is about"


@pytest.fixture
def agent(brokers: list[Broker], start_agent: StartAgent) -> Agent:
    return start_agent(brokers, secret_token=SECRET).wait_consuming()


@pytest.fixture
def environment(agent: Agent, tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "sender.yaml"
    file.write_text(json.dumps({"hosts": agent.settings["hosts"], "secret_token": SECRET}))
    return {**os.environ, "SERVICEBUS_CONFIG": str(file)}


@contextmanager
def served(app: str, environment: dict[str, str], *options: str) -> Iterator[Callable[..., tuple[int, Any]]]:
    """*app* under uvicorn; ask it by ``get(path, data)``. It ends by SIGTERM, with nothing to complain of."""
    (port,) = free_ports(1)
    words = ["--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "warning", *options, app]
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *words], env=environment, stderr=subprocess.PIPE, text=True
    )

    def get(path: str, data: bytes | None = None) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", data, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def is_up() -> bool:
        assert server.poll() is None, server.communicate()[1]
        try:
            return bool(get("/sum/0/0" if "django" in app else "/health"))
        except OSError:
            return False

    try:
        wait_until(is_up, 60)
        yield get
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60)[1] == ""
    finally:
        server.kill()
        server.communicate()


def test_the_script_calls_many_at_once_and_sends(agent: Agent, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "script.py"), "NODE-01"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "NODE-01 answers over 2 of 2 brokers"
    assert second.startswith("999000, told by message 1001 over ")
    wait_until(lambda: agent.noted("recorded") == ["{'total': 999000}"])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_fastapi_serves_the_bus_and_its_errors(
    brokers: list[Broker], agent: Agent, environment: dict[str, str], loop: str
) -> None:
    for package in ("fastapi", "uvicorn", loop):
        pytest.importorskip(package)
    with served("fastapi_app:app", environment, "--loop", loop) as get:
        assert get("/sum?a=20&b=22") == (200, {"sum": 42})
        status, said = get("/records?what=this", b"")
        assert status == 202 and isinstance(said["id"], int)
        wait_until(lambda: agent.noted("recorded") == ["this"])
        brokers[0].kill()
        assert get("/sum?a=1&b=2") == (200, {"sum": 3}), "the next broker answers"
        agent.stop()
        assert get("/sum?a=1&b=2") == (503, {"error": "NodeUnavailable"})
        assert get("/health") == (503, {"node": "NODE-01", "answers": False})


def test_djangos_views_call_the_bus(agent: Agent, environment: dict[str, str]) -> None:
    for package in ("django", "uvicorn"):
        pytest.importorskip(package)
    with served("django_app:application", environment, "--lifespan", "off") as get:
        assert get("/sum/20/22") == (200, {"sum": 42})
        assert get("/records", b"what=this")[0] == 202
        wait_until(lambda: agent.noted("recorded") == ["this"])
        agent.stop()
        assert get("/sum/1/2") == (503, {"error": "NodeUnavailable"})


UNDER_WSGI = """
import django_app
from django.test import Client
client = Client(headers={"host": "localhost"})
print([client.get(f"/sum/{number}/1").json()["sum"] for number in range(20)])
"""


def test_djangos_views_call_the_bus_from_a_loop_for_each_request(environment: dict[str, str]) -> None:
    """As under WSGI."""
    pytest.importorskip("django")
    done = subprocess.run(
        [sys.executable, "-c", UNDER_WSGI], env={**environment, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, str(list(range(1, 21)))), done.stderr


def test_the_test_of_the_fastapi_app_passes_and_warns_of_nothing() -> None:
    for package in ("fastapi", "httpx2"):
        pytest.importorskip(package, reason="the extra examples is not installed")
    words = ["-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist", "test_fastapi_app.py"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=EXAMPLES, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
