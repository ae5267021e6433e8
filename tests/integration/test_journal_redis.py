"""The journal of several machines, on a real Redis server: the contract, and what only a server can do to it."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from journal_contract import OpenJournal, SharedJournalContract, Steps, many_examples, run_against_model
from journal_words import NOW, begin, finish, statuses
from redis_server import RedisServer, redis_server
from waiting import wait_until

from servicebus.runtime.journal import IdStatus, Journal, Limits, Lookup, Start
from servicebus.runtime.journal.interface import JournalUnavailable
from servicebus.runtime.journal.redis_journal import open_redis

pytest.importorskip("redis", reason="the extra redis is not installed")

_nodes = (f"NODE-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextmanager
def node_on(server: RedisServer) -> Iterator[OpenJournal]:
    """Opens journals of one node that nobody used before."""
    node = next(_nodes)
    with ExitStack() as stack:

        def open_one(*, lease_s: float = 30.0, **limits: Any) -> Journal:
            journal = open_redis(server.url, node, Limits(**limits), lease_s=lease_s)
            stack.callback(journal.close)
            return journal

        yield open_one


class TestRedisJournal(SharedJournalContract):
    @pytest.fixture
    def open_journal(self, server: RedisServer) -> Iterator[OpenJournal]:
        with node_on(server) as open_journal:
            yield open_journal


def test_no_id_is_given_out_twice_while_its_token_is_good_whatever_happens(server: RedisServer) -> None:
    def check(steps: Steps) -> None:
        with node_on(server) as open_journal:
            run_against_model(open_journal, steps, workers=3)

    many_examples(check, 60)()


def stored(client: Any) -> int:
    """Bytes that the keys take, which the server's own figure mixes with the buffers of its clients."""
    return sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter())


def test_ten_thousand_ids_of_one_sender_take_a_few_kilobytes(server: RedisServer) -> None:
    import redis

    with node_on(server) as open_journal, redis.Redis.from_url(server.url) as client:
        journal = open_journal()
        before = stored(client)
        for first in range(1, 20_001, 500):
            begin(journal, *range(first, first + 500))
            finish(journal, *range(first, first + 500))
        assert stored(client) - before < 40_000
        journal.tick(NOW + 11)
        assert journal.snapshot()["chunks"] == 5


def test_too_many_senders_push_out_those_that_were_signed_first_and_are_counted(server: RedisServer) -> None:
    with node_on(server) as open_journal:
        journal = open_journal(max_entries=5)
        ids = [f"{sender:016x}-1" for sender in range(20)]
        for number, id in enumerate(ids):
            journal.begin_many([Start(id, NOW + 5000, False, NOW + number)], NOW)
            journal.finish(id, None)
        journal.tick(NOW + 11)
        assert journal.snapshot()["forgotten_early"] == 15
        found = [journal.begin_many([Start(id, NOW + 5000, False, NOW)], NOW)[0].status for id in ids]
        assert found == [IdStatus.FORGOTTEN] * 15 + [IdStatus.FINISHED] * 5


def test_what_is_run_stays_known_beyond_the_hour_that_the_server_keeps_it(server: RedisServer) -> None:
    import redis

    with node_on(server) as open_journal, redis.Redis.from_url(server.url) as client:
        journal: Any = open_journal()
        begin(journal, 1, lives_s=10)
        (key,) = client.scan_iter(journal._prefix + "e:*")
        client.expire(key, 5)
        journal._held_at -= 1200
        journal.tick(NOW)
        assert client.ttl(key) > 3500


def test_a_worker_without_a_heartbeat_is_dead_when_its_lease_is_over(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """On another machine nobody sees it die."""
    with node_on(server) as open_journal:
        silent: Any = open_journal(lease_s=0.3)
        other = open_journal()
        begin(silent, 1)
        assert statuses(other, 1) == [IdStatus.RUNNING]
        wait_until(lambda: statuses(other, 1) == [IdStatus.INTERRUPTED], 5.0, "the end of the lease")
        silent._renewed_at = 0.0
        silent.tick(NOW)
        assert "1 id that we are running may be run by others too" in caplog.text
        assert statuses(other, 1) == [IdStatus.RUNNING], "it lives, after all"


def test_what_a_silent_worker_lost_to_another_is_not_its_to_finish(server: RedisServer) -> None:
    with node_on(server) as open_journal:
        silent, other = open_journal(lease_s=0.3), open_journal()
        begin(silent, 1)
        wait_until(lambda: begin(other, 1, rerun=True)[0].status is IdStatus.NEW, 5.0, "the end of the lease")
        finish(silent, 1, answer=b"too late")
        assert begin(other, 1) == [Lookup(IdStatus.RUNNING, None, 2, 1)]
        finish(other, 1, answer=b"mine")
        assert begin(silent, 1) == [Lookup(IdStatus.FINISHED, b"mine")]


def test_a_server_that_was_killed_knows_what_it_knew(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--appendfsync", "always") as server:
        journal = open_redis(server.url, "NODE-01")
        begin(journal, 1, 2)
        finish(journal, 1, answer=b"kept")
        server.kill()
        with pytest.raises(JournalUnavailable, match="Connection refused"):
            begin(journal, 3)
        server.start()
        assert begin(journal, 1, 2, 3) == [
            Lookup(IdStatus.FINISHED, b"kept"),
            Lookup(IdStatus.RUNNING, None, 1, 0),
            Lookup(IdStatus.NEW, None, 1, 0),
        ]
        journal.close()


def test_a_frozen_server_costs_its_timeout_and_what_it_did_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """It may have begun an id for us and its word may not have reached us: asked again, it is ours."""
    with redis_server(tmp_path) as server:
        journal = open_redis(server.url, "NODE-01", timeout_s=0.2)
        begin(journal, 1)
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(JournalUnavailable, match="Timeout"):
            begin(journal, 2)
        with pytest.raises(JournalUnavailable):
            finish(journal, 1, answer=b"said twice")
        os.kill(server.process.pid, signal.SIGCONT)
        wait_until(lambda: _begun(journal, 2), 10.0, "the server's answer")
        finish(journal, 1, 2, answer=b"said twice")
        assert set(begin(journal, 1, 2)) == {Lookup(IdStatus.FINISHED, b"said twice")}
        journal.close()


def _begun(journal: Journal, count: int) -> bool:
    try:
        return statuses(journal, count) == [IdStatus.NEW]
    except JournalUnavailable:
        return False


def test_a_server_that_evicts_keys_is_refused(tmp_path: Path) -> None:
    options = ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    with (
        redis_server(tmp_path, *options) as server,
        pytest.raises(JournalUnavailable, match=r"maxmemory-policy is allkeys-lru.*set noeviction"),
    ):
        open_redis(server.url, "NODE-01")


def test_an_address_that_cannot_be_is_named_without_its_password() -> None:
    with pytest.raises(JournalUnavailable, match=r"redis://127.0.0.1:1/0: .*refused") as caught:
        open_redis("redis://user:geheim@127.0.0.1:1/0", "NODE-01")
    assert "geheim" not in str(caught.value)
    with pytest.raises(JournalUnavailable, match="is no address"):
        open_redis("carrier-pigeon://loft", "NODE-01")
