"""A hidden Erlang node beside a broker, that asks the broker in a millisecond what rabbitmqctl asks in a second."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from types import TracebackType
from typing import IO, cast

__all__ = ["LIFT_ALARM", "MEMBERS", "RESET", "ErlangShell"]

# Reads one expression per line, prints the value on one line. The end of its input, which is also our death, ends it.
_LOOP = (
    'Loop = fun(Self) -> case io:get_line("") of eof -> halt(); Line -> '
    "Answer = (catch begin {ok, Tokens, _} = erl_scan:string(Line), {ok, Forms} = erl_parse:parse_exprs(Tokens), "
    "{value, Value, _} = erl_eval:exprs(Forms, []), Value end), "
    'io:format("~0p~n", [Answer]), Self(Self) end end, Loop(Loop).'
)

LIFT_ALARM = "vm_memory_monitor:set_vm_memory_high_watermark(0.4), ok."
"""The broker's usual limit of memory again, if a test has lowered it."""

MEMBERS = (
    "Running = rabbit_nodes:all_running(), "
    "case (catch rabbit_khepri:is_enabled()) =:= true orelse (catch mnesia:system_info(is_running)) =/= yes of "
    "true -> Running; "
    "false -> Known = mnesia:system_info(running_db_nodes), [Node || Node <- Running, lists:member(Node, Known)] end."
)
"""The members with which this one shares its queues, itself included.

From RabbitMQ 3.12 on ``all_running()`` names those that run. Mnesia may have parted from one of them for good.
"""

RESET = (
    '[rabbit_vhost:delete(V, <<"reset">>) || V <- rabbit_vhost:list_names()], '
    '[rabbit_auth_backend_internal:delete_user(proplists:get_value(user, U), <<"reset">>)'
    ' || U <- rabbit_auth_backend_internal:list_users(), proplists:get_value(user, U) =/= <<"guest">>], '
    'rabbit_vhost:add(<<"/">>, <<"reset">>), '
    "rabbit_auth_backend_internal:set_permissions"
    '(<<"guest">>, <<"/">>, <<".*">>, <<".*">>, <<".*">>, <<"reset">>), '
    f"{LIFT_ALARM}"
)
"""Makes a broker as new: removes every virtual host with all that is in it (its connections are closed) and every user
but guest, then makes ``/`` again. Takes about 30 ms."""


class ErlangShell:
    """Evaluates Erlang on a broker. One thread at a time."""

    def __init__(self, node: str, environment: Mapping[str, str]):
        """*environment*: the broker's own, with its cookie's HOME and its epmd's port."""
        self._node = node
        self._asked = 0
        self._process = subprocess.Popen(
            ["erl", "-noshell", "-hidden", "-sname", f"{node.partition('@')[0]}-shell@{node.partition('@')[2]}",
             "-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-eval", _LOOP],
            env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip

    def evaluate(self, expressions: str) -> str:
        """Run *expressions* (ending in a full stop) on the broker; the value of the last, as Erlang prints it.

        A failure is a value too, ``{badrpc,...}`` or ``{'EXIT',...}``. Empty if the shell itself has ended.
        """
        self._asked += 1
        text = expressions.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        line = (
            f'{{answer, {self._asked}, (catch begin {{ok, T, _}} = erl_scan:string("{text}"), '
            "{ok, F} = erl_parse:parse_exprs(T), "
            f"case rpc:call('{self._node}', erl_eval, exprs, [F, []], 20000) of "
            "{value, V, _} -> V; Other -> Other end end)}."
        )
        questions, answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            questions.write(line + "\n")
            questions.flush()
        except (BrokenPipeError, ValueError):  # it was closed meanwhile
            return ""
        # Erlang's logger writes there, too, when a node that it knew goes away: a line of its would be taken for the
        # answer, and every answer for that to the question before.
        head = f"{{answer,{self._asked},"
        for answer in iter(answers.readline, ""):
            if answer.startswith(head):
                return answer.strip()[len(head) : -1]
        return ""

    def close(self) -> None:
        """End the Erlang node."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> ErlangShell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
