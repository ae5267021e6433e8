"""What every test may import by name: the modules of ``tests/fixtures/``; and the fixtures made of them.

Brokers come from the fixture ``brokers`` of servicebus.testing.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis.strategies import none

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

# No time limit for an example: a busy machine is no defect of the code. Under CI hypothesis does so by itself, and
# takes the same examples each time; at home it looks for new ones.
if "CI" not in os.environ:
    hypothesis.settings.register_profile("home", deadline=None)
    hypothesis.settings.load_profile("home")

if TYPE_CHECKING:
    from agents import Agent
    from probe import Probe

    from servicebus.configuration import Configuration
    from servicebus.sender import Sender
    from servicebus.testing import Broker


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--frames",
        choices=["own", "pika"],
        default="own",
        help="Who writes them, where a test does not say it (fast_path).",
    )
    parser.addoption(
        "--screenshots",
        type=Path,
        metavar="FOLDER",
        help="Keep pictures of the console there: docs/screenshots has those of tests/integration/test_console.py.",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Journals and lock files without a path of their own; for root the default is /var/lib/servicebus.
    state = tempfile.TemporaryDirectory(prefix="servicebus-tests-")
    config.add_cleanup(state.cleanup)
    os.environ["STATE_DIRECTORY"] = state.name
    # A shell's background jobs, and all that they start, inherit that it is ignored.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("frames") == "pika":
        # This process, and all that it starts.
        folder = Path(__file__).parent / "fixtures" / "pika_frames"
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        runpy.run_path(str(folder / "sitecustomize.py"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests are a million objects, all of which stay: the garbage collector need not look at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        # hypothesis warns if it finds nothing that refers to its random numbers, and what is frozen cannot be found.
        hypothesis.given(none())(lambda _: None)()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What the processes of ``bin/test`` have to know: which tests belong to one of them, and which come last.

    Those marked ``on_request`` are left out, unless ``ALL_FAULTS`` is in the environment or files are named.
    """
    is_chosen = "ALL_FAULTS" in os.environ or any(Path(each.partition("::")[0]).is_file() for each in config.args)
    left_out = [] if is_chosen else [each for each in items if each.get_closest_marker("on_request")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [each for each in items if not each.get_closest_marker("on_request")]
    items.sort(key=_is_alone)
    for item in items:
        if _is_alone(item):
            item.add_marker(pytest.mark.xdist_group("alone"))
        elif _has_fixture_of_module(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Stop where pytest-xdist does not see the groups: it says nothing, and tests fail that have no fault."""
    if node.config.option.dist == "loadgroup" and not any("@tests/" in id for id in ids):
        pytest.exit(f"this pytest-xdist makes no groups under pytest {pytest.__version__}, or no test has one", 4)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Keep what has failed by its own name: with that of its group, --last-failed would not find it again."""
    found = yield
    cache = getattr(session.config, "cache", None)
    if cache is not None and not hasattr(session.config, "workerinput"):
        failed = cache.get("cache/lastfailed", {})
        cache.set("cache/lastfailed", {id.partition("@tests/")[0].removesuffix("@alone"): True for id in failed})
    return found


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _has_fixture_of_module(item: pytest.Item) -> bool:
    """It would be made once in each process; and what it does to the brokers lasts until the module's last test."""
    known = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - pytest tells it nowhere else
    return any(definition.scope == "module" for definitions in known.values() for definition in definitions)


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start agents (arguments as for agents.Agent, without the folder); what is left of them is ended afterwards."""
    from agents import Agent

    with ExitStack() as stack:
        count = 0

        def start(hosts: Sequence[Broker | str | dict[str, Any]], *, make: type[Agent] = Agent, **how: Any) -> Agent:
            nonlocal count
            count += 1
            folder = tmp_path / f"agent-{count}"
            folder.mkdir()
            agent = make(folder, hosts, **how)
            stack.callback(agent.close)
            return agent

        yield start


@pytest.fixture
def make_sender() -> Iterator[Callable[[Configuration], Sender]]:
    """Make Senders that are closed afterwards."""
    from servicebus.sender import Sender

    with ExitStack() as stack:

        def make(configuration: Configuration) -> Sender:
            sender = Sender(configuration)
            stack.callback(sender.close)
            return sender

        yield make


@pytest.fixture
def make_probe() -> Callable[..., Probe]:
    """Make Probes: plain pika clients that look at a broker."""
    from probe import Probe

    return Probe
