"""An agent of py-servicebus 2.19, for its interpreter: ``old_agent_program.py ORDERS``, orders as for agent_program.

The services are those of ``services``, as 2.19 can have them: one thread each (``background`` for those that had more),
no attempts, no retry_schedule. Each worker says in a file beside its status socket's path that it consumes.
"""

import json
import logging
import multiprocessing
import os
import random
import time
from pathlib import Path

from clock import use_clock
from history import History, answer
from old_driver import Hosts, names, read_orders

from servicebus.service import ServiceBus


class Failure(Exception):
    """What the services raise on purpose."""


class Service:
    def __init__(self, history, do):
        self.history = history
        self.do = do

    def work(self, request):
        params = request.get_params()
        id = request.get_event().id
        if not isinstance(params, dict) or "forged" in params or not isinstance(params.get("op"), int):
            self.history.forged(f"{id} to {request.get_event().service}: {params!r}")
            raise Failure("forged")
        op = params["op"]
        self.history.started(op, id)
        try:
            self.do(params)
        except Failure:
            self.history.finished(op, id, verdict="failed")
            raise
        self.history.finished(op, id)
        return op

    def on_call(self, request, response):
        response.send(answer(self.work(request)))

    def on_message(self, request):
        self.work(request)


class Background(Service):
    background = True


def sleep(params):
    time.sleep(params.get("ms", 0) / 1000)


def fail(params):
    raise Failure("to fail")


def fail_at_first(params):
    if random.random() < 0.5:
        raise Failure("to fail for now")


class Bus(ServiceBus):
    """Tells the rig which process serves which host."""

    def __init__(self, values, history):
        super().__init__(Hosts(values))
        self.names = names(values)
        self.status = Path(values["status_socket"])
        self.history = history

    def run_server(self, configuration, host):
        create = configuration.create_receiver

        def create_and_tell(asked, *more):
            receiver = create(asked, *more)
            note = {"pid": os.getpid(), "host": self.names[host]}
            fresh = self.status.with_name(f"{self.status.name}.{os.getpid()}.new")
            fresh.write_text(json.dumps(note))
            fresh.replace(fresh.with_suffix(".worker"))
            return receiver

        configuration.create_receiver = create_and_tell
        try:
            super().run_server(configuration, host)
        finally:
            self.history.ended()


def main():
    multiprocessing.set_start_method("fork")  # 2.19 knows no other
    orders = read_orders()
    use_clock(Path(orders["clock"]))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    values = orders["configuration"]
    history = History(orders["history"], "worker", values["node_name"])
    bus = Bus(values, history)
    for name, service in {
        "echo": Service(history, sleep),
        "slow": Background(history, sleep),
        "idem": Service(history, sleep),
        "fails": Service(history, fail),
    }.items():
        bus.add_rpc_service("work", name, service)
    for name, service in {
        "record": Service(history, sleep),
        "slow": Background(history, sleep),
        "flaky": Service(history, fail_at_first),
        "broken": Service(history, fail),
    }.items():
        bus.add_message_services("jobs", name, service)
    # It ends when all its workers have, and is then started again, as an operator's supervisor would; not after a TERM.
    while all(process.exitcode < 0 for process in bus.run_services()):
        pass


if __name__ == "__main__":
    main()
