"""Messages of other programs, without envelope and signature: what services that consume and publish them receive.

See docs/plain. ``Services.consume()`` handles them, ``Sender.request()`` calls services of others.
"""

from servicebus._plain import MessageProperties, PlainMessage
from servicebus.client.plain_sending import AsyncPlainPublisher, PlainPublisher

__all__ = ["AsyncPlainPublisher", "MessageProperties", "PlainMessage", "PlainPublisher"]
