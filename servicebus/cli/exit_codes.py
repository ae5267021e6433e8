"""What the exit status of ``servicebus`` says. docs/cli.rst lists the same, for users."""

from __future__ import annotations

from enum import IntEnum

from servicebus import errors


class ExitCode(IntEnum):
    """Stable: scripts rely on these numbers."""

    OK = 0
    FAILED = 1
    """The service raised, or its result cannot be read; a worker is not healthy, a contract breaks callers, or doctor
    found something."""
    USAGE = 2
    """Arguments that cannot be: nothing was sent. The number is click's own. Or a description cannot be read."""
    CONFIGURATION = 3
    """Also how an agent ends that could not boot, so that its supervisor need not try again."""
    UNAVAILABLE = 4
    """No broker could be reached, or the node or agent is away."""
    TIMEOUT = 5
    REFUSED = 6
    """Credentials, TLS, permissions, limits of the broker or signature."""
    UNCERTAIN = 7
    """Something was sent, and it is unknown whether it was executed, or what came of it."""
    UNKNOWN_SERVICE = 8
    BUSY = 9
    PARTIAL = 10
    """Some of it was done; the output says what was not, and why."""
    DEFECT = 70
    """An error that should not be (EX_SOFTWARE of sysexits.h)."""
    INTERRUPTED = 130
    """Ctrl-C, as the shell counts it."""


# The first class that fits counts, so a subclass stands before its base.
_BY_CLASS: tuple[tuple[type[errors.ServiceBusError], ExitCode], ...] = (
    (errors.ConfigurationError, ExitCode.CONFIGURATION),
    (errors.OutboxUnavailable, ExitCode.CONFIGURATION),
    (errors.AddressError, ExitCode.USAGE),
    (errors.ContractError, ExitCode.USAGE),
    (errors.DurationError, ExitCode.USAGE),
    (errors.SignatureError, ExitCode.REFUSED),
    (errors.EnvelopeError, ExitCode.USAGE),
    (errors.NodeUnavailable, ExitCode.UNAVAILABLE),
    (errors.NoBrokerAvailable, ExitCode.UNAVAILABLE),
    (errors.ConnectFailed, ExitCode.UNAVAILABLE),
    (errors.SendRefused, ExitCode.UNAVAILABLE),
    (errors.OutboxFull, ExitCode.UNAVAILABLE),
    (errors.CallTimeout, ExitCode.TIMEOUT),
    (errors.CallRefused, ExitCode.REFUSED),
    (errors.CallInterrupted, ExitCode.UNCERTAIN),
    (errors.StreamInterrupted, ExitCode.UNCERTAIN),
    (errors.InvalidReply, ExitCode.FAILED),
    (errors.SendUnconfirmed, ExitCode.UNCERTAIN),
    (errors.ConnectionLost, ExitCode.UNCERTAIN),
    (errors.UnknownService, ExitCode.UNKNOWN_SERVICE),
    (errors.ServiceBusy, ExitCode.BUSY),
)
_MAY_BE_REFUSED = (errors.ConnectFailed, errors.NoBrokerAvailable, errors.NodeUnavailable, errors.CallTimeout)
_RAN_BEFORE = ("replayed", "forgotten")
_REFUSALS = frozenset({"credentials", "tls", "topology", "limits"})


def exit_code_of(error: errors.ServiceBusError) -> ExitCode:
    """The exit status for an error of ours; a broker that refuses differs from one that is not there."""
    if isinstance(error, errors.ConnectionLost) and not error.sent:
        return ExitCode.UNAVAILABLE
    if isinstance(error, errors.CallRefused) and error.reason in _RAN_BEFORE:
        return ExitCode.UNCERTAIN
    if isinstance(error, _MAY_BE_REFUSED) and _was_refused(error):
        return ExitCode.REFUSED
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), ExitCode.FAILED)


def _was_refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, errors.SignatureError):
            return True  # the node answers, with another secret
        if isinstance(error, errors.ConnectFailed) and error.kind in _REFUSALS:
            return True
        error = error.__cause__
    return False
