"""What a service raises that cannot or will not serve a request. ``servicebus.services`` has them for programs."""

from __future__ import annotations

from servicebus._durations import to_seconds

__all__ = ["Deny", "Reject", "Requeue", "Retry"]


class Retry(Exception):
    """Raised by a service that wants the request later.

    A message is tried again after *after* seconds, or when its service's retry schedule says; it counts as an attempt,
    and after the last one the message goes to the dead letters. A caller is answered *busy*, and calls again by itself
    within its time limit: raise it before anything has been done.

    Args:
        after: seconds; None leaves it to the retry schedule, and to the caller.
        reason: for people who look.
    """

    def __init__(self, after: float | None = None, reason: str = ""):
        if after is not None:
            after = to_seconds("after", after)
        super().__init__(after, reason)
        self.after = after
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Reject(Exception):
    """Raised by a service that will never take this request: a message goes to the dead letters at once.

    A caller gets it as RemoteError of type ``Reject``.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class Requeue(Exception):
    """Raised by a message service that cannot take this message now: it comes again in a second, and was no attempt.

    A handler that always raises it receives the same message indefinitely. A caller gets it as RemoteError of type
    ``Requeue``: an RPC service raises Retry instead.
    """

    def __init__(self, reason: str = ""):
        super().__init__(reason)
        self.reason = reason


class Deny(Exception):
    """Raised by a service, or by its ``authorize``, for a request whose caller may not ask for that.

    A caller gets PermissionDenied, a message goes to the dead letters at once: raise it before anything has been done.
    """

    def __init__(self, reason: str = ""):
        super().__init__(reason)
        self.reason = reason
