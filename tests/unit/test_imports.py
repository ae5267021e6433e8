"""What an import brings along, in an interpreter of its own: memory and time that a program pays for its Sender."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest

import servicebus

TOLD = "import json, sys; print(json.dumps(sorted(sys.modules)))"


@functools.cache
def modules_after(code: str) -> frozenset[str]:
    done = subprocess.run([sys.executable, "-c", f"{code}\n{TOLD}"], capture_output=True, text=True, check=True)
    return frozenset(json.loads(done.stdout))


@pytest.mark.parametrize(
    "unneeded",
    ["lxml", "difflib", "yaml", "click", "servicebus.compat", "servicebus.runtime", "servicebus.typed", "pydantic"],
)
def test_a_sender_brings_nothing_that_it_may_never_need(unneeded: str) -> None:
    assert unneeded not in modules_after("import servicebus.sender")


def test_a_sender_does_not_load_asyncio_for_an_async_sender() -> None:
    """pika does, for an adapter that nothing here uses."""
    adapter = "sys.modules['pika.adapters.asyncio_connection'] = types.SimpleNamespace(AsyncioConnection=None)"
    modules = modules_after(f"import sys, types; {adapter}; import servicebus.sender")
    assert not {"asyncio", "servicebus.aio"} & modules


REPLY = """
from servicebus.wire.envelope import Reply
from servicebus.wire.fault import Fault
from servicebus.wire.xmlcodec import decode_reply, encode_reply
decode_reply(encode_reply(Reply("0123456789abcdef-1", "k:00", {how})), 1000)
"""


def test_a_plain_reply_is_read_without_lxml_and_a_fault_with_it() -> None:
    plain = REPLY.format(how='"ok", b"3"')
    fault = REPLY.format(how='"fault", b"", Fault("busy", "later")')
    assert "lxml" not in modules_after(plain)
    assert "lxml" in modules_after(fault)


def test_an_agent_brings_nothing_that_it_may_never_need() -> None:
    unneeded = {"lxml", "difflib", "pydantic", "servicebus.typed", "multiprocessing.connection", "tempfile", "lzma"}
    assert not unneeded & modules_after("import servicebus.service"), "pydantic comes with the first typed function"
    typed = modules_after("import servicebus.typed")
    assert "pydantic" in typed and not {"servicebus.runtime"} & typed


def test_an_agent_reads_what_is_installed_for_an_entry_point_alone() -> None:
    """importlib.metadata brings email, zipfile and 35 more."""
    assert not {"importlib.metadata", "email", "zipfile"} & modules_after(
        "import servicebus.cli.run, servicebus.service"
    )


def test_without_pydantic_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['pydantic'] = None\nimport servicebus.typed"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last == "ImportError: servicebus.typed needs pydantic: pip install servicebus-failover[typed]"


def test_an_agent_has_everything_before_it_forks() -> None:
    assert {"servicebus.client.engine", "pika"} <= modules_after("import servicebus.service")


@pytest.mark.parametrize("name", ["AsyncSender", "Configuration", "Sender", "ServiceBus", "Services"])
def test_the_package_loads_a_name_when_it_is_asked_for(name: str) -> None:
    assert not {"pika", "servicebus.sender", "servicebus.configuration"} & modules_after("import servicebus")
    assert getattr(servicebus, name).__name__ == name
    assert name in dir(servicebus)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'servicebus' has no attribute 'Service'"):
        servicebus.Service  # noqa: B018
