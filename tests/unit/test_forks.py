"""A Mark tells the process that made it from its children, however they were forked."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, os
from servicebus.transport import forks

fork = os.fork if {by_python} else ctypes.PyDLL(None).fork
forks.make_mark = forks.{make}
mark = forks._mark = forks.make_mark()
told = []
forks.after_in_child(lambda: told.append(forks.count))
assert mark[0] and forks.notice() == 0 and forks.mark() is mark

def check():
    assert not mark[0]
    assert forks.notice() == 1 and forks.mark()[0] and not mark[0]
    assert forks.notice() == 1 and told == [1]

child = fork()
if not child:
    try:
        check()
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert mark[0] and forks.notice() == 0 and not told
"""


@pytest.mark.parametrize("by_python", [True, False], ids=["forked by Python", "forked in C"])
@pytest.mark.parametrize("make", ["make_mark", "ProcessId"])
def test_a_mark_is_true_where_it_was_made_and_nowhere_else(make: str, by_python: bool) -> None:
    program = PROGRAM.format(make=make, by_python=by_python)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems empty no pages")
def test_linux_is_not_asked_for_the_process() -> None:
    from servicebus.transport.forks import ProcessId, make_mark

    assert not isinstance(make_mark(), ProcessId)


FORKS_WHILE_READING = """
import os, socket, time
from servicebus.transport.iothread import client_loop
from servicebus.transport.loop import READ

ours, others = socket.socketpair()
children, got = [], []

def read(_events):
    got.append(ours.recv(1))
    if got == [b"f"]:
        child = os.fork()
        if child:
            children.append(child)

def wait_for(is_so, what):
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.001)

loop = client_loop()
loop.post(lambda: loop.watch(ours, READ, read))
others.send(b"f")
wait_for(lambda: children, "no fork")
wait_for(lambda: os.waitid(os.P_PID, children[0], os.WEXITED | os.WNOHANG), "the child goes on as a second reader")
for count in range(2, 52):
    others.send(b".")
    wait_for(lambda: len(got) == count, "the child reads as well")
"""


LETS_GO = """
import os, socket, time
from servicebus.transport.iothread import client_loop
from servicebus.transport.loop import READ

ours, others = socket.socketpair()
loop = client_loop()
loop.post(lambda: loop.watch(ours, READ, lambda _: None))
while ours.fileno() not in loop.files:
    time.sleep(0.001)
child = os.fork()
if not child:
    time.sleep(100)
    os._exit(0)
try:
    loop.post(lambda: (loop.unwatch(ours), ours.close()))
    others.settimeout(30)
    assert others.recv(1) == b""
finally:
    os.kill(child, 9)
"""


@pytest.mark.parametrize("program", [FORKS_WHILE_READING, LETS_GO], ids=["reads no answer", "keeps no connection open"])
def test_what_a_child_of_a_process_with_a_client_loop_does_not_do(program: str) -> None:
    """One that a callback forked went on in the parent's loop: on the parent's sockets, without end."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
