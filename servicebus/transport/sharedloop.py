"""SharedLoop: an event loop that a waiting thread may run itself, so that what it waits for wakes one thread, not two.

Theory of operation (leader and followers). The thread that holds the *lead* runs the loop. It is the loop's own thread,
or the only thread that waits for input: a caller that waits for its answer, or a service that waits for its next
request. The loop's thread lends the lead when such a thread asks for it, and stands by. The leader sends what it has to
send, reads the sockets until it has what it waits for, and leaves. The lead stays lent for a moment, since the next
call often follows at once; then the loop's thread takes it back.

A leader does little: it sends requests, its own and others', reads streams and flushes them. Whatever else there is (a
timer that is due, what was posted, a socket that is still being connected) it leaves to the thread, and waits as ever.
Reason: a caller's thread can be interrupted at any point, by whatever a signal handler raises. An interrupted read may
have left what belongs to a connection half done, so every connection is then cut, and the requests on them go on over
new ones, under their ids.

It may be interrupted before it has said that it leads, or while it leaves, and the lead is lost then. The loop's thread
replaces it (``_Lead``): what is left of the old one decides nothing, also when its holder was merely suspended.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from threading import get_ident

from servicebus.errors import LifecycleError
from servicebus.transport.loop import READ, EventLoop, nothing
from servicebus.transport.stacks import frame_of

Callback = Callable[[], None]
Condition = Callable[[], object]
_LENT_S = 0.002
"""So long a loop that was lent may stand unused. Short, since others may have to wait for so long: for a service that
runs a request, or a program that does something else between two calls."""
_LEADER_WAIT_S = 0.02
"""After so long without any input a leader leaves the waiting to the thread; for slow services nothing is gained."""
_RELUCTANT_CALLS = 32
"""So many calls do not ask for the lead after one that was disturbed by other threads' work."""
_LOST_LEAD_S = 2.0
"""After so long without the lead the loop's thread looks whether it was lost."""


class _LeadState(Enum):
    """Which thread runs the loop. Only its own thread changes this: LENT -> RECALLED -> THREAD -> LENT."""

    THREAD = "the loop's own thread"
    LENT = "any thread that takes the lead"
    RECALLED = "the last leader, until it leaves"


_LENT = _LeadState.LENT
"""Asked for every call."""


class _Lead:
    """The right to run a loop. Its holder holds *lock*.

    ``leader`` has one entry: the thread that has begun to lead, or the loop's own that has taken it away before; one
    step decides (``setdefault()``). ``is_waiting``: the leader waits for input, and has nothing half done.
    """

    __slots__ = ("is_waiting", "leader", "lock")

    def __init__(self, *, is_held: bool):
        self.lock = threading.Lock()
        if is_held:
            self.lock.acquire()
        self.leader: dict[None, int] = {}
        self.is_waiting = False


class SharedLoop(EventLoop):
    """For Senders and workers. ``lead()``, ``follow()``, ``post()`` and ``submit()`` are for any thread."""

    def __init__(self, name: str):
        super().__init__(name)
        self._callers: set[int] = set()  # threads that wait for an answer (``wait_for()``)
        self._submitted: deque[Callback] = deque()
        self._lead = _Lead(is_held=False)
        self._recall = threading.Lock()
        self._recall.acquire()  # released: the thread is called back
        self._thread: int | None = None
        self._is_wanted = False  # a caller asks for the lead
        self._lead_state = _LeadState.RECALLED
        self._is_torn = False  # a thread was interrupted while it read: the connections are to be cut
        self._times_led = self._reluctance = 0

    # -- for any thread ------------------------------------------------------------------------------------------

    def post(self, callback: Callback) -> None:
        super().post(callback)
        # A leader that leaves looks at what was posted after it has said that it leads no more: one of us sees it.
        if self._lead_state is _LENT and not self._lead.leader:
            self._call_back()

    def submit(self, callback: Callback) -> None:
        """As ``post()``, but a leader may run *callback*, too. It may be run again, if that leader was interrupted.

        It never overtakes what was posted before.
        If the loop is lent and no thread runs it, *callback* waits for the next leader, or until the thread takes it
        back: a caller that submits many things and then waits for them sends them together.
        """
        self._submitted.append(callback)
        if self._sleeping:
            self._sleeping = False
            self._wake()

    def stop(self) -> None:
        super().stop()
        self._call_back()

    def forsake(self) -> None:
        """In a forked child, where it is the parent's: if the thread that forked runs it, it leaves and reads no more.

        That thread runs callbacks, and signal handlers that interrupt a leader.
        """
        self._stopping = True
        self._watched = {}
        self._lead = _Lead(is_held=True)

    def wait_for(self, begin: Callback, submit: Callback, is_over: Condition) -> None:
        """For a caller: ``lead()``, or else ``follow()``; what it waits for may still be to come afterwards.

        Raises:
            LifecycleError: this thread would have to read the answer; nothing was begun.
        """
        me = get_ident()
        try:
            self._callers.add(me)
            if not self.lead(begin, is_over):
                if not self.can_wait_here():
                    raise LifecycleError("this thread reads the answers (a callback runs in it)", "waiting for one")
                self.follow(submit, is_over)
        finally:
            self._callers.discard(me)

    def can_wait_here(self) -> bool:
        """Whether this thread may wait for an answer: not if it is the one that would have to read it.

        A signal handler that interrupted a leader's waiting gives the lead back, so that it can.
        """
        me, leader = get_ident(), self._lead.leader.get(None)
        if me == leader and self._lead.is_waiting:
            self._poll = self._another_poll()  # the interrupted one cannot be asked again before it has returned
            self._give_back()
            leader = None
        return me != leader and me != self._thread

    def lead(self, begin: Callback, is_over: Condition, held: _Lead | None = None, own_fd: int | None = None) -> bool:
        """If the lead is free: ``begin()``, then run the loop until *is_over*, or until there is work for the thread.

        Returns False, and has done nothing, if it is not free. *held* is the lead if this thread has it already.
        *own_fd* ends it when there is something to read: it is what this thread waits for else.
        """
        lead = held or self._lead
        if held is None and (self._lead_state is not _LENT or not lead.lock.acquire(blocking=False)):
            return False
        me = get_ident()
        if lead.leader.setdefault(None, me) != me:
            return False  # it was taken for lost
        has_begun, is_needed = False, True
        try:
            self._times_led += 1
            if not (self._posted or self._stopping or self._is_torn):
                has_begun = True
                if own_fd is not None:
                    self._poll.register(own_fd, READ)
                begin()
                if self._submitted:
                    self._run_submitted()
                if self._dirty or self._unsent:
                    self._flush()
                while (is_needed := not is_over()) and self._read_streams(lead):
                    pass
        except BaseException:
            if self._lead is lead and not lead.is_waiting:
                self._is_torn = True
            raise
        finally:
            if has_begun and own_fd is not None:
                with suppress(KeyError):  # in a child that was forked meanwhile
                    self._poll.unregister(own_fd)
            if self._lead is lead:
                is_needed = is_needed and not is_over()
                lead.is_waiting = self._sleeping = False
                lead.leader.clear()
                lead.lock.release()
                if is_needed or self._posted or self._submitted or self._is_torn:  # the thread must run it now
                    self._call_back()
        return has_begun

    def follow(self, submit: Callback, is_over: Condition, own_fd: int | None = None) -> None:
        """``submit()`` to the thread; if no other thread waits, ask for the lead, and ``lead()``."""
        if len(self._callers) > 1 or self._lead.leader or self._reluctance:
            self._reluctance = max(0, self._reluctance - 1)
            submit()
            return
        self._is_wanted = True
        try:
            submit()
            lead = self._lead
            is_leader = lead.lock.acquire(timeout=_LEADER_WAIT_S)
        finally:
            self._is_wanted = False
        if is_leader:
            self.lead(nothing, is_over, lead, own_fd)

    # -- the thread ----------------------------------------------------------------------------------------------

    def tear(self) -> None:
        """The thread was interrupted at any point: cut all connections before the loop runs again."""
        self._is_torn = True

    def run(self) -> None:
        self._thread = get_ident()
        if self._lead_state is not _LeadState.THREAD:
            self._lead_state = _LeadState.RECALLED
            self._call_back()
            self._take_back()
        self._cut_if_torn()
        while not self._stopping:
            self._run_once()
            if self._is_wanted:
                self._stand_by()

    def _has_work(self) -> bool:
        return bool(self._posted or self._submitted)

    def _run_posted(self) -> None:
        super()._run_posted()
        self._run_submitted()

    def _run_submitted(self) -> None:
        count = len(self._submitted)
        if self._posted:
            return  # what was posted before a submission goes before it
        for _ in range(count):
            # It goes only when it was run to its end.
            self.guarded(self._submitted[0])
            self._submitted.popleft()

    def _stand_by(self) -> None:
        self._is_wanted = False
        self._lead_state = _LENT
        self._lead.lock.release()
        if self._posted:  # by a thread that did not see yet that no thread runs it
            self._call_back()
        seen, since = self._times_led, time.monotonic()
        while not self._recall.acquire(timeout=_LENT_S):
            led = self._times_led
            if led != seen:
                seen, since = led, time.monotonic()
            elif not self._lead.leader or time.monotonic() - since > _LOST_LEAD_S:
                break
        self._lead_state = _LeadState.RECALLED
        self._take_back()

    def _take_back(self) -> None:
        while True:
            lead = self._lead
            if lead.lock.acquire(timeout=_LOST_LEAD_S):
                if lead is self._lead:
                    lead.leader.clear()
                    break
            elif self._is_lost(lead):
                self._lead = _Lead(is_held=True)
                self._sleeping = False
                break
        self._lead_state = _LeadState.THREAD
        self._cut_if_torn()

    def _is_lost(self, lead: _Lead) -> bool:
        """Whether the thread that took *lead* was interrupted before it began, or before it had left.

        If it has not begun, it cannot any more.
        """
        me = get_ident()
        leader = lead.leader.setdefault(None, me)
        if leader == me:
            return True
        if self._is_led_by(leader) or lead.leader.get(None) != leader:
            return False
        self._is_torn = True
        return True

    def _is_led_by(self, thread: int) -> bool:
        """Whether *thread* runs ``lead()``, however deep."""
        frame = frame_of(thread)
        while frame is not None:
            if frame.f_code is SharedLoop.lead.__code__ and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def _cut_if_torn(self) -> None:
        if self._is_torn:
            self._is_torn = False
            for stream in list(self.streams.values()):
                stream.cut("a thread was interrupted while it read from it")

    def _call_back(self) -> None:
        with suppress(RuntimeError):  # called back already
            self._recall.release()

    # -- a leader ------------------------------------------------------------------------------------------------

    def _read_streams(self, lead: _Lead) -> bool:
        """Wait for input and take it; returns False if the rest is the thread's."""
        timeout_s = min(_LEADER_WAIT_S, self._time_to_next_timer())
        if timeout_s == 0.0:
            return False
        lead.is_waiting = True
        self._sleeping = True
        ready = self._poll.poll(0 if self._posted or self._submitted else timeout_s * 1000)
        if self._lead is not lead:  # a signal handler has given the lead back
            return False
        self._sleeping = False
        lead.is_waiting = False
        if self._posted:
            self._reluctance = _RELUCTANT_CALLS
            return False
        if not ready and not self._submitted:
            return False
        for fd, _ in ready:
            if fd not in self.streams and fd != self._wake_in:
                return False  # it is still being connected: the thread's; or what the leader waits for itself
        self._dispatch(ready)
        if self._submitted:
            self._run_submitted()
        if self._dirty or self._unsent:
            self._flush()
        self.iterations += 1
        return True

    def _another_poll(self) -> select.poll:
        poll = select.poll()
        for fd, (_, events, _) in self._watched.items():
            poll.register(fd, events)
        return poll

    def _give_back(self) -> None:
        """Give up the lead for good, from within: the thread leads no more when it goes on."""
        lead, self._lead = self._lead, _Lead(is_held=False)
        self._sleeping = False
        lead.lock.release()  # a thread that waits for it finds that it was replaced
        self._call_back()
