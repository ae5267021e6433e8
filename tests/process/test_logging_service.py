"""LoggingService as programs use it: the two calls of py-servicebus 2.x, and what an agent adds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from servicebus.configuration import Configuration, load_logging
from servicebus.errors import ConfigurationError, ConnectFailed
from servicebus.logging_service import LoggingService, connect_root_logger
from servicebus.testing.ports import free_ports

TOP = """
import logging, os, pathlib, signal, sys, threading
from servicebus.logging_service import LoggingService
from servicebus import logging_service
path, port = sys.argv[1], int(sys.argv[2])
"""


def program(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", TOP + textwrap.dedent(text), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def passed(ended: subprocess.CompletedProcess[str]) -> bool:
    assert ended.returncode == 0, ended.stderr
    return ended.stderr == ""


@pytest.fixture
def port() -> int:
    """Given to nobody else, neither by TCP nor, therefore, by UDP."""
    return free_ports(1)[0]


def test_a_program_of_2x_runs_unchanged(tmp_path: Path, port: int) -> None:
    """README of py-servicebus: start the server, connect, log. The server's process has pid, terminate and join."""
    path = tmp_path / "old.log"
    ended = program(
        """
        def hook():
            pathlib.Path(path + ".hook").write_text(str(os.getpid()))

        server = LoggingService.start_logging_server(path, port, hook)
        LoggingService.init_logging(port)
        logging.info("hello %s", "world")
        logging.debug("below the level")
        logging.shutdown()
        server.terminate()
        server.join(5)
        print(server.pid, server.exitcode)
        """,
        path,
        port,
    )
    assert passed(ended)
    pid, exitcode = ended.stdout.split()
    assert exitcode == "0"
    assert Path(f"{path}.hook").read_text() == pid
    lines = path.read_text().splitlines()
    assert lines[1].endswith("]INFO:hello world")
    assert "below the level" not in path.read_text()
    assert lines[-1].endswith("log server stops: written=1 lost=0 repeated=0 refused=0")


def test_it_does_not_matter_whether_the_server_or_the_connection_comes_first(tmp_path: Path, port: int) -> None:
    """In 2.19 a server that was started second fed itself its own records."""
    ended = program(
        """
        LoggingService().init_logging(port, logging.WARNING)
        logging.warning("before the server")

        def hook():
            logging.warning("from the hook")

        server = LoggingService().start_logging_server(path, port, after_fork_hook=hook)
        logging.warning("after")
        logging.shutdown()
        server.terminate(); server.join(5)
        """,
        tmp_path / "x.log",
        port,
    )
    assert ended.returncode == 0, ended.stderr
    text = (tmp_path / "x.log").read_text()
    assert text.count("before the server") == text.count(":after") == 1
    assert "written=2 lost=0" in text


def test_connecting_twice_writes_each_record_once(tmp_path: Path, port: int) -> None:
    ended = program(
        """
        server = LoggingService.start_logging_server(path, port, secret="s")
        first = LoggingService.init_logging(port, secret="s")
        assert LoggingService.init_logging(port, "WARNING", secret="s") is first
        assert logging.getLogger().level == logging.WARNING
        logging.warning("once")
        second = LoggingService.init_logging(port, secret=["s", "older"])
        assert second is not first and len(logging.getLogger().handlers) == 1
        logging.warning("with another key ring")
        second.flush()
        found = LoggingService.statistics(port, "s")
        assert (found["written"], found["lost"], found["refused"]) == (2, 0, 0), found
        """,
        tmp_path / "x.log",
        port,
    )
    assert passed(ended)


def test_trouble_with_port_or_file_is_raised_where_the_server_is_started(tmp_path: Path, port: int) -> None:
    server = LoggingService.start_logging_server(tmp_path / "x.log", port)
    try:
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            LoggingService.start_logging_server(tmp_path / "y.log", port)
        with pytest.raises(ConfigurationError, match="cannot be opened: Is a directory"):
            LoggingService.start_logging_server(tmp_path, port + 1)
    finally:
        server.terminate()
        server.join(5)
    assert server.exitcode == 0


def test_the_parent_does_not_hold_the_port_of_a_server_that_died(tmp_path: Path, port: int) -> None:
    """Else what is sent afterwards would vanish in a socket that nobody reads, and not wait for the next server."""
    server = LoggingService.start_logging_server(tmp_path / "x.log", port)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.join(5)
    with pytest.raises(ConnectFailed) as refused:
        LoggingService.statistics(port)
    assert refused.value.kind == "refused"
    again = LoggingService.start_logging_server(tmp_path / "x.log", port)
    assert LoggingService.statistics(port)["pid"] == again.pid
    again.terminate()
    again.join(5)


def test_the_log_server_of_an_agent_is_started_again_as_often_as_it_dies(tmp_path: Path, port: int) -> None:
    """It lets go of its master's files; what was closed between their listing and the fork is none of them any more."""
    ended = program(
        """
        import signal, time
        from servicebus._agent_logging import AgentLogging
        from servicebus.configuration import Configuration
        settings = Configuration({"hosts": ["h"], "secret_token": "s",
                                  "logging": {"server": True, "file": path, "port": port}}).logging
        closed_at_fork = []
        os.register_at_fork(before=lambda: [os.close(closed_at_fork.pop()) for _ in closed_at_fork[:]])
        agent = AgentLogging(settings)
        agent.start()
        for count in range(3):
            closed_at_fork += os.pipe()
            server = agent._server.pid
            os.kill(server, signal.SIGKILL)
            while agent._server.pid == server:
                agent.tick()
                time.sleep(0.01)
            logging.warning("record %d", count)
            deadline = time.monotonic() + 30
            while f"record {count}" not in pathlib.Path(path).read_text():
                assert time.monotonic() < deadline, count
                agent.tick()
                time.sleep(0.01)
            assert agent._server.is_alive()
        agent.stop()
        """,
        tmp_path / "x.log",
        port,
    )
    assert passed(ended)


def test_the_server_ends_soon_after_its_parent_was_killed(tmp_path: Path, port: int) -> None:
    ended = program(
        """
        server = LoggingService.start_logging_server(path, port)
        LoggingService.init_logging(port).flush()
        print(server.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "x.log",
        port,
    )
    pid = int(ended.stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 5.0)
    assert "the parent" in (tmp_path / "x.log").read_text()


def test_a_term_to_the_process_group_leaves_the_last_words_in_the_file(tmp_path: Path, port: int) -> None:
    """As by ``timeout``, or by systemd: the parent drains, and ends the server when that is done."""
    ended = program(
        """
        import subprocess
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, lambda *_: None)
        server = LoggingService.start_logging_server(path, port)
        LoggingService.init_logging(port).flush()
        # Another process sends it. Not /bin/kill: that of Debian 12 takes "-1234" for "-1", which is all processes.
        send = "import os, sys; os.killpg(int(sys.argv[1]), 15)"
        subprocess.run([sys.executable, "-c", send, str(os.getpid())], check=True, start_new_session=True)
        server.join(1.0)
        logging.warning("the last words")
        logging.shutdown()
        os.kill(server.pid, signal.SIGTERM)
        server.join(5.0)
        assert server.exitcode == 0, server.exitcode
        """,
        tmp_path / "x.log",
        port,
    )
    assert passed(ended)
    assert "the last words" in (tmp_path / "x.log").read_text()


def test_a_server_started_by_settings_holds_none_of_its_parents_files(tmp_path: Path, port: int) -> None:
    """Workers notice the death of their master by the end of a pipe: a log server that holds it too would hide that."""
    ended = program(
        """
        from servicebus.configuration import Configuration
        config = Configuration({"hosts": ["h"], "secret_token": "s",
                                "logging": {"server": True, "file": path, "port": port}})
        reading, writing = os.pipe()
        server = logging_service.start_server(config.logging)
        os.close(writing)
        assert os.read(reading, 1) == b"", "the end of the pipe"
        logging_service.connect_root_logger(config.logging, threaded=False, process_name="master")
        logging.warning("hello")
        for handler in logging.getLogger().handlers:
            handler.flush()
        assert LoggingService.statistics(port, "s")["written"] == 1
        assert server.is_alive()
        """,
        tmp_path / "x.log",
        port,
    )
    assert passed(ended)


def test_a_master_without_threads_and_its_workers_with_one(tmp_path: Path, port: int) -> None:
    """The shape of an agent: connected before the fork, no thread in the master, one in each worker."""
    ended = program(
        """
        from servicebus.configuration import Configuration
        config = Configuration({"hosts": ["h"], "secret_token": "s",
                                "logging": {"server": True, "file": path, "port": port}})
        server = logging_service.start_server(config.logging)
        logging_service.connect_root_logger(config.logging, threaded=False, process_name="master")
        logging.info("master starts")
        for name in ("worker a", "worker b"):
            pid = os.fork()
            if pid == 0:
                logging_service.connect_root_logger(config.logging, process_name=name)
                logging.info("%s works", name)
                assert threading.active_count() == 2
                logging.shutdown()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        logging.info("master ends")
        assert threading.active_count() == 1
        logging_service.pump()
        logging.shutdown()
        found = LoggingService.statistics(port, "s")
        assert (found["written"], found["lost"], found["processes"]) == (4, 0, 3), found
        """,
        tmp_path / "x.log",
        port,
    )
    assert passed(ended)


def test_without_a_logging_section_nothing_is_connected() -> None:
    config = Configuration({"hosts": ["h"], "secret_token": "s"})
    assert connect_root_logger(config.logging) is None


def test_the_sample_configuration_runs_the_server(tmp_path: Path, port: int) -> None:
    sample = Path(__file__).parents[2] / "conf" / "logserver.yaml"
    environment = {**os.environ, "SERVICEBUS_LOG_FILE": str(tmp_path / "x.log"), "SERVICEBUS_LOG_PORT": str(port)}
    command = [sys.executable, "-m", "logging_service", str(sample)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert str(port) in server.stdout.readline()
        secrets = [secret.reveal() for secret in load_logging(sample, environment).secrets]
        assert LoggingService.statistics(port, secrets)["pid"] == server.pid
    finally:
        server.terminate()
        server.communicate(timeout=5)
    assert server.returncode == 0
