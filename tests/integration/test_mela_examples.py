"""The programs of examples/mela, on real brokers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from probe import Probe
from waiting import wait_until

from servicebus.testing import Broker
from servicebus.testing.ports import LOOPBACK, free_ports

EXAMPLES = Path(__file__).parents[2] / "examples" / "mela"
CLI = [sys.executable, "-c", "from servicebus.cli.main import main; main()"]


class Mela:
    def __init__(self, brokers: list[Broker], folder: Path):
        self.brokers, self.log = brokers, folder / "log"
        self.environment = {
            **os.environ,
            "RABBITMQ_HOST": brokers[0].host, "RABBITMQ_PORT": str(brokers[0].port),
            "ARCHIVE_HOST": brokers[1].host, "ARCHIVE_PORT": str(brokers[1].port),
            "MELA_STATUS": str(folder / "status"), "SERVICEBUS_CONFIG": str(EXAMPLES / "application.yaml"),
        }  # fmt: skip

    def publish(self, broker: int, exchange: str, key: str, body: Any, **about: Any) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(self.brokers[broker].url))
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, json.dumps(body), pika.BasicProperties(**about), mandatory=True)
        connection.close()

    def dead(self, *words: str) -> str:
        """What the command has printed."""
        done = subprocess.run([*CLI, *words], env=self.environment, cwd=EXAMPLES, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def said(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.log.read_text().splitlines())


@contextmanager
def running(program: list[str], mela: Mela, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("ab") as log:
        process = subprocess.Popen(program, cwd=EXAMPLES, env=mela.environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def mela(brokers: list[Broker], tmp_path: Path) -> Iterator[Mela]:
    mela = Mela(brokers, tmp_path)
    with running([*CLI, "run", "application.yaml"], mela, mela.log):
        ready = [(0, "documents"), (0, "sentiments"), (0, "reports"), (0, "greetings"), (1, "documents.archive")]
        wait_until(
            lambda: all(Probe(brokers[at]).depth(queue) is not None for at, queue in ready), 60, mela.log.read_text
        )
        yield mela


def test_documents_go_through_all_of_them(mela: Mela) -> None:
    mela.publish(0, "documents", "document.new", {"text": "good", "url": "one"})
    mela.publish(0, "documents", "document.new.today", {"text": "bad", "url": "two"})
    mela.publish(1, "documents", "archive.old", {"text": "old", "url": "three"})
    wait_until(lambda: mela.said("report.new", "one") and mela.said("report.alert", "two"), 60, mela.log.read_text)
    wait_until(lambda: mela.said("report.new", "three"), 60, mela.log.read_text)


def test_what_is_not_acknowledged_is_tried_again_or_a_dead_letter(mela: Mela) -> None:
    before = Probe(mela.brokers[0]).depth("MELA-01.dead") or 0
    mela.publish(0, "sentiments", "sentiment.x", {"url": "spam:1", "is_good": True})
    mela.publish(0, "sentiments", "sentiment.x", {"no": "sentiment"})
    wait_until(lambda: Probe(mela.brokers[0]).depth("MELA-01.dead") == before + 2, 60, mela.log.read_text)
    listed = mela.dead("--json", "dead", "list")
    assert "spam is not reported" in listed and "plain mela.report" in listed
    assert "went back" in mela.dead("dead", "requeue", "--service", "plain mela.report")
    wait_until(lambda: Probe(mela.brokers[0]).depth("MELA-01.dead") == before + 2, 60, mela.log.read_text)


def test_any_client_calls(mela: Mela) -> None:
    assert Probe(mela.brokers[0]).ask("greetings", b"pika") == b"hello, pika"


def test_fastapi_calls(mela: Mela, tmp_path: Path) -> None:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason="the extra examples is not installed")
    (port,) = free_ports(1)
    words = ["--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "warning", "web:app"]
    with running([sys.executable, "-m", "uvicorn", *words], mela, tmp_path / "web"):

        def get(path: str, data: bytes | None = None) -> Any:
            asked = urllib.request.Request(
                f"http://{LOOPBACK}:{port}{path}", data, {"content-type": "application/json"}
            )
            with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
                return json.load(answer)

        def is_up() -> bool:
            try:
                return bool(get("/health"))
            except OSError:
                return False

        wait_until(is_up, 60)
        assert get("/greet?name=web") == {"answer": "hello, web"}
        assert get("/documents", b'{"text": "fine", "url": "from the web"}') == {"stored_by": "default"}
        wait_until(lambda: mela.said("report.new", "from the web"), 60, mela.log.read_text)
