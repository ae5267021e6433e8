"""TextExecution: runs a typed function, which gets the text of the params and returns that of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

from servicebus.runtime.execution import Execution, refuse_lazy
from servicebus.runtime.job import Job, Outcome
from servicebus.runtime.registration import Service
from servicebus.runtime.text_request import TextRequest
from servicebus.services import TextService, UnboundParams, _serving
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.fault import CONTRACT_MISMATCH, REFUSED, Fault, fault_from_exception
from servicebus.wire.jsontext import decode_json

_MAX_DATA_CHARS = 64 * 1024

__all__ = ["TextExecution", "execution_of"]


class TextExecution(Execution):
    """As an Execution; what is bound to the function's signature takes the place of the params."""

    def __init__(self, service: Service, make_sender: Callable[[], Any], **how: Any):
        super().__init__(service, make_sender, **how)
        self._typed: TextService = service.instance
        self._read = self._typed.bind
        self._call = self._typed.call

    def _params_of(self, job: Job, params: Any) -> Any:
        return decode_json(job.incoming.raw_params)

    @cached_property
    def _contract(self) -> Any:
        """The ServiceContract of the service. Made when it is needed first: a caller is of another version."""
        return self._typed.contract("call" if self._service.kind is CALL else "message", {})

    def _unbound(self, job: Job, error: UnboundParams) -> Fault:
        theirs = job.incoming.contract
        if not theirs or theirs == self._contract.hash:
            return super()._unbound(job, error)
        present = {**self._contract.to_json(), "docs": ""}
        told = json.loads(error.data)
        data = json.dumps({**told, "present": present})
        if len(data) > _MAX_DATA_CHARS:
            data = json.dumps({**told, "present": {**present, "params": None, "result": None, "errors": {}}})
        version = f"version {self._contract.version}, " if self._contract.version else ""
        what = f"its caller was built against contract {theirs}, and here is {version}contract {self._contract.hash}"
        return Fault(REFUSED, f"{CONTRACT_MISMATCH}: {what}: {error.detail}", data=data)

    def _execute(self, job: Job, params: Any) -> Outcome:
        request = TextRequest(job, self._make_sender)
        _serving.set(request)
        try:
            job.started()
            result = self._call(params, request)
        finally:
            request._is_over = True
        outcome = self._outcome(job, result)
        if request._published:
            self._publish(request._published)
        return outcome

    def _outcome(self, job: Job, result: Any) -> Outcome:
        """Of a function that has returned."""
        incoming = job.incoming
        if incoming.kind is MESSAGE:
            if result is not None:
                refuse_lazy(result)
            return Outcome(job)
        try:
            text = self._typed.dump(result)
        except BaseException:
            refuse_lazy(result)
            raise
        return Outcome(job, job.protocol.encode_text(incoming, text))

    def _raised(self, job: Job, error: BaseException) -> Outcome:
        return super()._raised(job, self._typed.shown(error))

    def _is_declared(self, error: BaseException) -> bool:
        return self._typed.declared(error) is not None

    def _fault_of(self, error: BaseException, with_trace: bool) -> Fault:
        fault = fault_from_exception(error, with_trace)
        declared = self._typed.declared(error)
        return fault if declared is None else Fault(declared[0], fault.text, fault.trace, data=declared[1])


def execution_of(service: Service, make_sender: Callable[[], Any], **how: Any) -> Execution:
    """What runs *service*, by its form."""
    form = TextExecution if isinstance(service.instance, TextService) else Execution
    return form(service, make_sender, **how)
