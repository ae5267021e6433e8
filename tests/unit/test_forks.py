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
