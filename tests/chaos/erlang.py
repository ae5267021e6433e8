"""What the rig does to a broker from inside, as Erlang: what rabbitmqctl does in a second, in a millisecond."""

from __future__ import annotations

import re

__all__ = [
    "CLOSE_ALL",
    "CLOSE_ONE",
    "CONSUMERS",
    "DISK_ALARM",
    "DISK_FREE",
    "FULL",
    "MEMORY_ALARM",
    "MEMORY_FREE",
    "REJECT",
    "USE",
    "accept_publishes",
    "cancel_consumer",
    "crash_queue",
    "delete_queue",
    "forget_consumer",
    "have_taken",
    "is_misunderstood",
    "read_consumers",
    "read_use",
    "set_policy",
    "with_policy",
]

# rabbitmqctl set_vm_memory_high_watermark, set_disk_free_limit
MEMORY_ALARM = "vm_memory_monitor:set_vm_memory_high_watermark(0.0000001)."
MEMORY_FREE = "vm_memory_monitor:set_vm_memory_high_watermark(0.4)."
DISK_ALARM = "rabbit_disk_monitor:set_disk_free_limit(1152921504606846976)."
DISK_FREE = "rabbit_disk_monitor:set_disk_free_limit(50000000)."

# rabbitmqctl close_all_connections, close_connection. One that ends by itself meanwhile does not keep the others open.
_CLOSE = (
    "case rabbit_networking:local_connections() of [] -> none; All -> "
    '[catch rabbit_networking:close_connection(P, "chaos") || P <- {which}], closed end.'
)
CLOSE_ALL = _CLOSE.format(which="All")
CLOSE_ONE = _CLOSE.format(which="[lists:nth(rand:uniform(length(All)), All)]")

# Of those who are connected to the member that is asked. Of the channels of others it could not tell if it was started
# later: the limit of its question is a time of its own clock, and for theirs that is over. The name of a connection has
# the pid of the worker that it belongs to.
CONSUMERS = (
    "[{element(4, amqqueue:get_name(Q)), [Name "
    "|| Consumer <- rabbit_amqqueue:consumers(Q), Channel <- [element(1, Consumer)], node(Channel) =:= node(), "
    "[{connection, C}] <- [catch rabbit_channel:info(Channel, [connection])], "
    "[{client_properties, P}] <- [catch rabbit_networking:connection_info(C, [client_properties])], "
    '{<<"connection_name">>, _, Name} <- P]} '
    "|| Q <- rabbit_amqqueue:list()]."
)
USE = (
    "{length(rabbit_networking:local_connections()), length(rabbit_channel:list_local()), "
    "[{element(4, amqqueue:get_name(Q)), proplists:get_value(messages, rabbit_amqqueue:info(Q, [messages]), 0)} "
    "|| Q <- rabbit_amqqueue:list()]}."
)

# Undone if the queue is not there just now.
_WITH_QUEUE = (
    'case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)) of {{ok, Q}} -> {then}; _ -> none end.'
)


def delete_queue(queue: str) -> str:
    """Delete *queue* if nothing is in it, neither waiting nor delivered: that would be lost by our own hand.

    So would be what comes between the look and the deletion, and the broker confirms it: the queue is taken from its
    exchange first, and what was on its way to it has arrived when it is looked at. Of quorum queues the broker does not
    do both in one step: they are kept.
    """
    return _with_queue(
        queue,
        "case amqqueue:get_type(Q) of rabbit_classic_queue -> "
        "Bound = [B || B <- rabbit_binding:list_for_destination(amqqueue:get_name(Q)), "
        'element(4, element(2, B)) =/= <<"">>], '
        '[ok = rabbit_binding:remove(B, <<"chaos">>) || B <- Bound], timer:sleep(200), '
        "case rabbit_amqqueue:info(Q, [messages]) of [{messages, 0}] -> "
        '{ok, _} = rabbit_amqqueue:delete(Q, false, true, <<"chaos">>), deleted; '
        'Other -> [ok = rabbit_binding:add(B, <<"chaos">>) || B <- Bound], Other end; Type -> {kept, Type} end',
    )


def crash_queue(queue: str) -> str:
    """Kill the process of *queue*: the broker makes it anew, from what it has on disk."""
    return _with_queue(
        queue,
        "Pid = case amqqueue:get_pid(Q) of {Name, Node} -> rpc:call(Node, erlang, whereis, [Name]); P -> P end, "
        "exit(Pid, kill), crashed",
    )


def cancel_consumer(queue: str) -> str:
    """Cancel one consumer of *queue*, and tell it so."""
    return _without_consumer(queue, "rabbit_channel:send_command(Channel, {'basic.cancel', Tag, true}), cancelled")


def forget_consumer(queue: str) -> str:
    """Take one consumer away from *queue* without a word to it."""
    return _without_consumer(queue, "forgotten")


def _without_consumer(queue: str, then: str) -> str:
    return _with_queue(
        queue,
        "case rabbit_amqqueue:consumers(Q) of [] -> none; [First | _] -> "
        "Channel = element(1, First), Tag = element(2, First), case amqqueue:get_pid(Q) of "
        "P when is_pid(P) -> gen_server2:call(P, case hd(rabbit_misc:version()) >= $4 of "
        'true -> {stop_consumer, #{pid => Channel, consumer_tag => Tag, user => <<"chaos">>}}; '
        'false -> {basic_cancel, Channel, Tag, undefined, <<"chaos">>} end, 5000); '
        "Server -> ra:process_command(Server, rabbit_fifo:make_checkout({Tag, Channel}, cancel, #{})) end, "
        + then
        + " end",
    )


def _with_queue(queue: str, then: str) -> str:
    return _WITH_QUEUE.format(queue=queue, then=then)


# A queue that is told both at once drops what it holds: it applies its new length while it still drops from its head.
REJECT = '[{<<"overflow">>, <<"reject-publish">>}]'
FULL = '[{<<"max-length">>, 0}, {<<"overflow">>, <<"reject-publish">>}]'


def set_policy(policy: str, pattern: str, definition: str) -> str:
    """Set *definition* for the queues whose names match *pattern*; ``ok``.

    With ``FULL`` they refuse every publish. A quorum queue takes one more message before, and tells its publishers a
    moment later that it has room again.
    """
    quoted = pattern.replace("\\", "\\\\")
    return f'rabbit_policy:set(<<"/">>, <<"{policy}">>, <<"{quoted}">>, {definition}, 7, <<"queues">>, <<"chaos">>).'


def with_policy(policy: str) -> str:
    """By what the queues of *policy* live: its definition, as each of them has taken it in."""
    return (
        "[rabbit_amqqueue:info(Q, [effective_policy_definition]) || Q <- rabbit_amqqueue:list(), "
        f'rabbit_policy:name(Q) =:= <<"{policy}">>].'
    )


def have_taken(answer: str, definition: str) -> bool:
    """Whether the *answer* to ``with_policy()`` names queues, and all of them live by *definition*."""
    queues = answer.count("effective_policy_definition")
    return queues > 0 and all(answer.count(key) == queues for key in re.findall('<<"[a-z-]+">>', definition))


def accept_publishes(policy: str) -> str:
    """Take the policy away; ``ok`` if it was there."""
    return f'rabbit_policy:delete(<<"/">>, <<"{policy}">>, <<"chaos">>).'


# What Erlang says of a function, a message or a record that is not, or no longer, what the rig takes it for.
_MISUNDERSTOOD = re.compile(r"\{+(undef|function_clause|badarity|badrecord)\b")


def is_misunderstood(answer: str) -> bool:
    """Whether the broker, of another version perhaps, does not understand what it is asked."""
    return answer.startswith(("{badrpc", "{'EXIT'")) and _MISUNDERSTOOD.search(answer) is not None


_QUEUE = re.compile(r'\{<<"([^"]*)">>,\s*\[([^\]]*)\]\}')
_PID = re.compile(r"pid (\d+)")
_COUNTS = re.compile(r"\{(\d+),\s*(\d+),")
_LENGTH = re.compile(r'\{<<"([^"]*)">>,\s*(\d+)\}')


def read_consumers(answer: str) -> dict[str, list[int]] | None:
    """The answer to CONSUMERS: for each queue the pids of the processes that consume it; None if there is none."""
    if not answer.startswith("["):
        return None
    return {name: [int(pid) for pid in _PID.findall(names)] for name, names in _QUEUE.findall(answer)}


def read_use(answer: str) -> tuple[int, int, dict[str, int]] | None:
    """The answer to USE: connections, channels, and the length of each queue; None if there is none."""
    found = _COUNTS.match(answer)
    if found is None:
        return None
    return int(found[1]), int(found[2]), {name: int(length) for name, length in _LENGTH.findall(answer)}
