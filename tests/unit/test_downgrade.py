"""A broker that lets a node of version 2 seem to be of version 1 is not told the day's token."""

from __future__ import annotations

from typing import Any

import pytest

from servicebus.client.compat_path import CompatPinger, TrackingProtocolV2
from servicebus.client.nodes import Path
from servicebus.client.watch import Finding
from servicebus.compat.names import PONG
from servicebus.configuration import Configuration
from servicebus.policy.liveness import PingClock
from servicebus.protocol.v1 import ProtocolV1
from servicebus.wire.envelope import Reply
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope, encode_reply

KEYS = Keyring(["secret token"])


class Link:
    """Keeps what is published, and answers when told."""

    bytes_received = 0

    def __init__(self, newest: Any):
        self.newest = newest
        self.sent: list[tuple[str, bytes]] = []

    def ask_broker(self) -> None: ...
    def watch(self, node: str) -> None: ...
    def publish_control(self, outgoing: Any, wire_id: str, expiration_ms: int) -> None:
        self.sent.append((wire_id, outgoing.body))


class World:
    def __init__(self, **settings: Any) -> None:
        config = Configuration({"hosts": ["mq-a"], "secret_token": "secret token", "compat": True, **settings})
        self.newest, self.old = TrackingProtocolV2(config, KEYS), ProtocolV1(config)
        self.pinger = CompatPinger(config, self.newest, self.old)
        self.paths = [Path(Link(self.newest), "NODE-01", PingClock(0.5, 1.5, 0.0)) for _ in range(2)]  # type: ignore[arg-type]

    def downgrade(self, path: Path) -> Finding | None:
        """What the owner of a broker does: nothing of version 2 comes through, and PING is answered by PONG."""
        link: Any = path.link
        self.pinger.ping(path, 1.0)
        finding = None
        for wire_id, body in link.sent:  # grows meanwhile
            if body == b"PING":
                finding = self.pinger.answered(wire_id, PONG, 1.0)
            else:
                finding = self.pinger.returned(wire_id, 1.0)
        self.pinger.look_further(path, 1.0)
        return finding

    def answer_in_version_2(self, path: Path) -> None:
        link: Any = path.link
        self.pinger.ping(path, 0.0)
        wire_id, body = link.sent.pop()
        token = KEYS.sign_reply(decode_envelope(body, 10_000).token, wire_id, "ok", b"{}", None)
        assert self.pinger.answered(wire_id, encode_reply(Reply(wire_id, token, "ok", b"{}")), 0.0) is not None


def said_in_version_1(path: Path) -> bool:
    link: Any = path.link
    return any(body == b"PING" for _, body in link.sent)


@pytest.mark.parametrize("other_broker", [False, True])
def test_a_node_that_was_heard_in_version_2_is_never_spoken_to_in_version_1(other_broker: bool) -> None:
    world = World()
    world.answer_in_version_2(world.paths[0])
    path = world.paths[int(other_broker)]
    world.downgrade(path)
    assert path.protocol is world.newest
    assert not said_in_version_1(path)


def test_a_node_that_was_never_heard_is() -> None:
    world = World()
    world.downgrade(world.paths[0])
    assert world.paths[0].protocol is world.old


@pytest.mark.parametrize("names", [[], ["NODE-02"]])
def test_a_node_that_is_not_named_is_never_spoken_to_in_version_1(names: list[str]) -> None:
    world = World(compat_nodes=names)
    world.downgrade(world.paths[0])
    assert world.paths[0].protocol is world.newest
    assert not said_in_version_1(world.paths[0])


def test_a_late_return_of_a_ping_in_version_2_says_nothing_about_a_path_in_version_1() -> None:
    """Several may be on their way when the first of them settles what the path speaks."""
    world = World()
    path = world.paths[0]
    link: Any = path.link
    world.pinger.ping(path, 0.5)
    late, _ = link.sent.pop()
    world.downgrade(path)
    assert path.protocol is world.old
    assert world.pinger.returned(late, 2.0) is None


def test_a_node_that_is_named_may_go_back_to_version_1() -> None:
    world = World(compat_nodes=["NODE-01"])
    world.answer_in_version_2(world.paths[0])
    world.downgrade(world.paths[0])
    assert world.paths[0].protocol is world.old
