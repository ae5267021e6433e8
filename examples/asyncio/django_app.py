"""Async views of Django that call the bus; a whole project in one file.

::

    pip install servicebus-failover django uvicorn
    SERVICEBUS_CONFIG=conf/sender.yaml uvicorn --app-dir examples/asyncio django_app:application
    curl http://127.0.0.1:8000/sum/1/2

An AsyncSender belongs to no event loop, so it is made with the module. It works under WSGI as well, where Django
runs each async view in a loop of its own. It connects when first used, so a server may fork after it has loaded this.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from servicebus.aio import AsyncSender
from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout, NoBrokerAvailable, NodeUnavailable, ServiceBusError, ServiceBusy

NODE = os.environ.get("NODE", "NODE-01")
STATUS: dict[type[ServiceBusError], int] = {
    NoBrokerAvailable: 503,
    NodeUnavailable: 503,
    ServiceBusy: 503,
    CallTimeout: 504,
}
"""Every other error is 502: the service raised, or it is unknown whether it ran."""
sender = AsyncSender(Configuration.load(os.environ["SERVICEBUS_CONFIG"]))


async def add(_request: HttpRequest, a: int, b: int) -> JsonResponse:
    _, total = await sender.call(f"{NODE}.math.add", [a, b], timeout=5)
    return JsonResponse({"sum": total})


async def record(request: HttpRequest) -> JsonResponse:
    receipt = await sender.send(f"{NODE}.audit.record", request.POST.get("what", ""))
    return JsonResponse({"id": receipt}, status=202)


class BusErrors:
    """Middleware: the bus's errors as HTTP's."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]):
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        return self.get_response(request)

    def process_exception(self, _request: HttpRequest, error: Exception) -> JsonResponse | None:
        if not isinstance(error, ServiceBusError):
            return None
        return JsonResponse({"error": type(error).__name__}, status=STATUS.get(type(error), 502))


urlpatterns = [path("sum/<int:a>/<int:b>", add), path("records", record)]
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=[f"{__name__}.BusErrors"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of the example",
)
application = get_asgi_application()
