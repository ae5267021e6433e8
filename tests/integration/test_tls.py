"""Agents and Senders over TLS: a real broker with a certificate, and one that asks for ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.testing import brokers
from servicebus.testing.ports import free_ports


class Add:
    def on_call(self, request: Any, response: Any) -> None:
        response.send(sum(request.get_params()))


@dataclass(frozen=True)
class Tls:
    """A broker that listens with TLS only to clients whose certificate it knows, and the files on both sides."""

    port: int
    authority: str
    stranger: str
    certificate: str
    key: str

    def configuration(self, **changes: Any) -> Configuration:
        tls = {"ca": self.authority, "certificate": self.certificate, "key": self.key, **changes.pop("tls", {})}
        values: dict[str, Any] = {
            "hosts": [f"amqps://guest:guest@localhost:{self.port}/"],
            "node_name": "NODE-TLS",
            "secret_token": "secret",
            "tls": {key: value for key, value in tls.items() if value is not None},
            **changes,
        }
        return Configuration(values)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()

    def written(name: str, *blobs: trustme.Blob) -> str:
        path: Path = folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    server, client = authority.issue_cert("localhost"), authority.issue_cert("client@localhost")
    ca = written("ca.pem", authority.cert_pem)
    (port,) = free_ports(1)
    lines = [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"ssl_options.cacertfile = {ca}",
        f"ssl_options.certfile = {written('server.pem', *server.cert_chain_pems)}",
        f"ssl_options.keyfile = {written('server.key', server.private_key_pem)}",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
    ]
    with brokers(count=1, rabbitmq_conf="\n".join(lines)):
        yield Tls(
            port,
            ca,
            written("stranger.pem", stranger.cert_pem),
            written("client.pem", *client.cert_chain_pems),
            written("client.key", client.private_key_pem),
        )


@pytest.mark.parametrize("fast_path", [True, False])
def test_calls_and_messages_travel_over_tls(tls: Tls, fast_path: bool) -> None:
    """A body of many TLS records and AMQP frames too: what TLS has read ahead, no selector sees."""
    config = tls.configuration(fast_path=fast_path)
    bus = ServiceBus(config)
    bus.add_rpc_service("math", "add", Add())
    (master,) = bus.run_services(join=False)
    try:
        with Sender(config) as sender:
            assert sender.call("NODE-TLS.math.add", [1, 2], timeout=20) == (1, 3)
            assert sender.call("NODE-TLS.math.add", [1] * 400_000, timeout=20) == (2, 400_000)
            calls = [sender.call_async("NODE-TLS.math.add", [n, 1], timeout=20) for n in range(200)]
            assert [call.result()[1] for call in calls] == [n + 1 for n in range(200)]
    finally:
        master.terminate()
        master.join()
    assert master.exitcode == 0


def test_a_broker_that_another_authority_vouches_for_is_refused(tls: Tls) -> None:
    sender = Sender(tls.configuration(tls={"ca": tls.stranger}))
    with sender, pytest.raises(NoBrokerAvailable, match="TLS certificate refused") as caught:
        sender.call("NODE-TLS.math.add", [1, 2])
    assert caught.value.attempts[0][0] == f"localhost:{tls.port}"


def test_a_broker_whose_name_is_not_in_its_certificate_is_refused(tls: Tls) -> None:
    sender = Sender(tls.configuration(tls={"server_name": "other.example"}))
    with sender, pytest.raises(NoBrokerAvailable, match="TLS certificate refused"):
        sender.call("NODE-TLS.math.add", [1, 2])


def test_without_verification_any_broker_will_do(tls: Tls) -> None:
    config = tls.configuration(tls={"ca": tls.stranger, "verify": False})
    assert any("not verified" in warning for warning in config.warnings)
    with Sender(config) as sender:
        assert sender.ping_all("NODE-TLS", timeout=60) == (0, 1)


def test_a_client_without_its_certificate_is_told_why(tls: Tls) -> None:
    sender = Sender(tls.configuration(tls={"certificate": None, "key": None}))
    with sender, pytest.raises(NoBrokerAvailable, match=r"does it ask for tls\.certificate"):
        sender.call("NODE-TLS.math.add", [1, 2])


def test_plain_amqp_to_a_tls_port_is_told_why(tls: Tls) -> None:
    plain = Configuration({"hosts": [f"localhost:{tls.port}"], "secret_token": "secret"})
    with Sender(plain) as sender, pytest.raises(NoBrokerAvailable, match="is it a TLS port"):
        sender.call("NODE-TLS.math.add", [1, 2])
