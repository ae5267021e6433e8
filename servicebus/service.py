"""ServiceBus: register services and run the agent that serves them on every broker."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servicebus._agent_logging import AgentLogging
from servicebus._describe import NodeDescription, contract_of
from servicebus._nested_sender import NestedSender
from servicebus._registering import Registering
from servicebus.client.meter import SenderMeter
from servicebus.configuration import BrokerHost, Configuration
from servicebus.configuration.settings import as_configuration
from servicebus.contracts import NodeContract
from servicebus.errors import ConfigurationError, JournalUnavailable, ServiceBusError
from servicebus.middleware import Middleware
from servicebus.observability.notify import ServiceManager
from servicebus.protocol.encryption import encryption_of
from servicebus.runtime.inherited import put_right
from servicebus.runtime.journal import Journal, check_journal, journal_of
from servicebus.runtime.known_subscriptions import note_subscriptions
from servicebus.runtime.master import Master
from servicebus.runtime.node_locks import Locks, locks_of
from servicebus.runtime.registration import plain_hook
from servicebus.runtime.signals import EXIT_BOOT, EXIT_FAILED
from servicebus.runtime.worker import Hook, Worker
from servicebus.sender import Sender
from servicebus.transport.green import refuse_green_threads
from servicebus.transport.loggers import get_logger, log_once

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["ServiceBus"]

LOG = get_logger(__name__)

_LOOK_S = 0.1


class ServiceBus(Registering):
    """An agent: the services of one node, run by one worker process per configured broker host.

    Args:
        configuration: the brokers, the node's name and the shared secret; or the path of a YAML file. Its ``services:``
            are what ``servicebus run`` serves; an agent that is made here has those that are registered.
        queue_len: how many requests may wait in front of one service; half of ``prefetch`` by default, and never more
            than that, because beyond it one service would keep the others from getting any.
    """

    def __init__(
        self,
        configuration: Configuration | str | os.PathLike[str],
        queue_len: int | None = None,
        *,
        middleware: Sequence[Middleware] = (),
    ):
        configuration = as_configuration(given := configuration)
        super().__init__(configuration, middleware)
        self._own_queue_len = queue_len
        self._after_fork: Hook | None = None
        self._on_exit: Hook | None = None
        self._read_again: Callable[[], Configuration] | None = None
        if isinstance(given, (str, os.PathLike)):
            self._read_again = partial(Configuration.load, Path(given).absolute())
        self._serves_file = False
        """Its services are those of the file, as ``servicebus run`` has them."""
        self._has_own_name = False
        """``set_node_name()`` was called: the name in the file is another's."""
        self._description: NodeDescription | None = None
        self._logging = AgentLogging(configuration.logging)

    def __repr__(self) -> str:
        return f"<ServiceBus node {self._config.node_name} with {len(self._services)} services>"

    @property
    def _queue_len(self) -> int | None:
        return self._own_queue_len if self._own_queue_len is not None else self._config.queue_len

    def contract(self) -> NodeContract:
        """What this node offers its callers and subscribers. Raises ConfigurationError: a type has no schema."""
        return contract_of(self._config.node_name, self._services.values(), self.published)

    def set_after_fork_hook(self, hook: Hook) -> None:
        """Call *hook* in every worker before its threads start."""
        self._after_fork = plain_hook(hook, "after-fork hook")

    def set_on_exit_hook(self, hook: Hook) -> None:
        """Call *hook* in every worker when it has stopped serving."""
        self._on_exit = plain_hook(hook, "exit hook")

    def set_node_name(self, node_name: str) -> None:
        """Serve another node than the configuration's. Raises ConfigurationError if that is no name."""
        self._config = self._config.with_node_name(node_name)
        self._has_own_name = True

    def set_reload(self, read_again: Callable[[], Configuration]) -> None:
        """On HUP take the configuration from *read_again* before the workers are replaced one after another.

        An agent that was made from the path of a file reads that one again without this. What *read_again* raises, and
        a configuration that cannot be used, change nothing. docs/reload says which settings need a restart.
        """
        self._read_again = read_again

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until TERM, INT or QUIT; returns the exit code. Only in a program's main thread.

        Raises:
            ConfigurationError: the journal can never be opened, or the log server that the configuration asks for
                cannot be started.
        """
        self._begin()
        return self._supervise(None)

    def run_services(self, join: bool = True) -> list[Any]:
        """Serve as ``run()`` does, and exit with its code if that is not 0.

        With ``join=False`` the agent runs beside this program, in processes of its own, and ends with it; the list
        holds their master as a ``multiprocessing.Process``, to be terminated or joined. It has started by then.

        Raises:
            ConfigurationError: as ``run()``, in either case.
        """
        if join:
            if code := self.run():
                sys.exit(code)
            return []
        return [self._start_beside()]

    def run_server(self, configuration: Configuration, host: str) -> int:
        """Serve one *host* of *configuration* in this process, without a master."""
        put_right()
        self._config = configuration
        log_once(LOG, configuration.warnings + configuration.secret_warnings)
        for each in configuration.hosts:
            if host in (each.name, each.host):
                return self._work(each)
        known = ", ".join(each.name for each in configuration.hosts)
        raise ConfigurationError(f"{host!r} is none of the configured hosts ({known})", key="hosts")

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start_beside(self) -> BaseProcess:
        """A process that runs the master, once it has begun. Raises what keeps it from that."""
        context = multiprocessing.get_context("fork")
        hearing, telling = context.Pipe(duplex=False)
        process = context.Process(target=self._run_beside, args=(os.getpid(), hearing, telling), daemon=True)
        process.start()
        telling.close()
        with hearing:
            while not hearing.poll(_LOOK_S) and process.is_alive():
                pass
            try:
                error = hearing.recv() if hearing.poll() else None
            except EOFError:  # it was killed: its exit code is all there is to know
                error = None
        if error is not None:
            process.join()
            raise error
        return process

    def _run_beside(self, parent_pid: int, hearing: Connection, telling: Connection) -> None:
        # It is ours that it ends with its parent. As a property of this process it would keep services from making any.
        multiprocessing.current_process().daemon = False
        hearing.close()
        with telling:
            try:
                self._begin()
            except ServiceBusError as error:  # the parent raises it
                telling.send(error)
                sys.exit(EXIT_BOOT)
            telling.send(None)
        sys.exit(self._supervise(parent_pid))

    def _begin(self) -> None:
        """Everything that can tell at once that this configuration cannot be served. Raises ServiceBusError."""
        refuse_green_threads()
        _check_usable(self._config)
        put_right()
        self._description = NodeDescription(self.contract())
        note_subscriptions(self._config, {each.key: each.events for each in self._services.values() if each.events})
        self._logging.start()

    def _supervise(self, parent_pid: int | None) -> int:
        try:
            log_once(LOG, self._config.warnings + self._config.secret_warnings)
            read_again = self._given_again if self._read_again is not None else None
            announced: set[str] = set()
            # Of a program that runs the agent beside itself the unit is its own.
            manager = ServiceManager({}) if parent_pid is not None else ServiceManager()

            def tick() -> None:
                self._logging.tick(may_restart=not master.is_stopping)
                manager.tick(master)
                if parent_pid is None and len(announced) < len(self._config.hosts):
                    self._announce(master, announced)

            master = Master(
                self._config, self._run_worker, tick, read_again=read_again, take=self._take, parent_pid=parent_pid
            )
            return master.run()
        finally:
            self._logging.stop()

    def _announce(self, master: Master, announced: set[str]) -> None:
        """Say on stdout, once for each host, that its calls and messages are taken from now on."""
        workers = master.snapshot()["workers"]
        fresh = {str(each["host"]) for each in workers if each.get("state") == "consuming"} - announced
        for host in sorted(fresh):
            names = ", ".join(sorted({each.key for each in self._services.values()})) or "no services"
            with suppress(AttributeError, OSError, ValueError):  # stdout is closed, or its reader has gone
                sys.stdout.write(f"{self._config.node_name} serves {names} on {host} (pid {os.getpid()})\n")
                sys.stdout.flush()
        announced |= fresh

    def _given_again(self) -> Configuration:
        """What the file says now. Raises ConfigurationError: no agent could use it."""
        assert self._read_again is not None
        config = self._with_publishers(self._read_again())
        if self._has_own_name:
            config = config.with_node_name(self._config.node_name)
        _check_usable(config)
        for host in config.hosts + config.connections:
            host.ssl_context()
        for service in self._services.values():
            self._check_service(service, config)
        return config

    def _take(self, config: Configuration) -> None:
        self._logging.reload(config.logging)
        self._config = config
        if self._serves_file and self._tune(config.services):
            self._description = NodeDescription(self.contract())
        log_once(LOG, config.warnings + config.secret_warnings)

    def _run_worker(self, host: BrokerHost, heartbeat_fd: int, parent_death_fd: int) -> int:
        self._logging.in_worker(f"worker {host.name}")
        return self._work(host, heartbeat_fd, parent_death_fd)

    def _work(self, host: BrokerHost, heartbeat_fd: int | None = None, parent_death_fd: int | None = None) -> int:
        try:
            journal = journal_of(self._config, with_plain=any(service.plain for service in self._services.values()))
        except JournalUnavailable as error:
            LOG.error("%s: not served, because what runs twice cannot be known: %s", host.name, error)
            return EXIT_FAILED
        try:
            locks = locks_of(self._config) if any(service.needs_locks for service in self._services.values()) else None
        except OSError as error:
            LOG.error("%s: not served, because the locks of its services cannot be kept: %s", host.name, error)
            return EXIT_FAILED
        sender = NestedSender(self._config, middleware=self._middleware, keeps_events=True)
        worker = self._worker(host, sender, journal, locks)
        worker.outbox_messages = sender.outbox_messages
        return worker.run(heartbeat_fd, parent_death_fd)

    def _worker(self, host: BrokerHost, sender: Sender, journal: Journal, locks: Locks | None, **how: Any) -> Worker:
        worker = Worker(
            self._config,
            host,
            list(self._services.values()),
            lambda: sender,
            journal,
            describe=(self._description or NodeDescription(self.contract())).text,
            locks=locks,
            queue_len=self._queue_len,
            after_fork=self._after_fork,
            on_exit=self._on_exit,
            **how,
        )
        if self._config.metrics is not None:
            worker.of_client = SenderMeter(sender).entries
        return worker


def _check_usable(config: Configuration) -> None:
    """Raises ConfigurationError: something is missing on this machine, for good."""
    check_journal(config)
    encryption_of(config)
    _check_extras(config)


_EXTRAS = {"metrics": "servicebus.observability.collector", "traces": "servicebus.observability.spans"}
"""Keys, and what they need."""


def _check_extras(config: Configuration) -> None:
    """Imported here, before the workers are forked, so that they share it. Raises ConfigurationError."""
    for key, module in _EXTRAS.items():
        if getattr(config, key):
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise ConfigurationError(str(error), path=config.path, key=key) from None
