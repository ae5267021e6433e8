"""The configuration of agents, senders and the log server: one dict, or one YAML file with the same keys.

``Configuration(mapping)`` and ``Configuration.parse(text)`` are pure; ``Configuration.load(path)`` reads the file
and what its ``!file`` values name. docs/configuration.rst lists every key.
"""

from servicebus.configuration.bridges import BridgeEntry
from servicebus.configuration.section import MissingKey
from servicebus.configuration.settings import Configuration, load_logging
from servicebus.configuration.values import (
    BrokerHost,
    LoggingSettings,
    MetricsSettings,
    Secret,
    ServiceEntry,
    TlsSettings,
)
from servicebus.configuration.weakness import weak_secrets

__all__ = [
    "BridgeEntry",
    "BrokerHost",
    "Configuration",
    "LoggingSettings",
    "MetricsSettings",
    "MissingKey",
    "Secret",
    "ServiceEntry",
    "TlsSettings",
    "load_logging",
    "weak_secrets",
]
