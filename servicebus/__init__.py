"""A service bus over several independent RabbitMQ brokers.

Four imports are promises: ``servicebus.service.ServiceBus``, ``servicebus.configuration.Configuration``,
``servicebus.sender.Sender`` and ``servicebus.logging_service.LoggingService``. This package itself loads neither pika
nor anything that forks; what a service raises to say "later" or "never" can be had from here.
"""

from servicebus.services import Reject, Requeue, Retry

__all__ = ["Reject", "Requeue", "Retry"]

__version__ = "3.0.0.dev0"
