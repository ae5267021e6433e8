"""The services that the benchmarks call; `servicebus run` makes them from the file that agent.py writes."""

from __future__ import annotations

import time
from typing import Any


class Add:
    """The sum of a list of numbers."""

    def on_call(self, request: Any, response: Any) -> None:
        response.send(sum(request.get_params()))


class Sleep:
    """Params ``[seconds, value]``: gives *value* after so long, so that calls are in flight when something breaks."""

    def on_call(self, request: Any, response: Any) -> None:
        seconds, value = request.get_params()
        time.sleep(seconds)
        response.send(value)
