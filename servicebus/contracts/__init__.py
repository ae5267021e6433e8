"""Contracts: what a node offers its callers, as data: services, JSON Schemas, errors, and a hash of each service.

Pure, and without pydantic: a description is made where the services are (``Services.contract()``,
``ServiceBus.contract()``), and read anywhere.
"""

from servicebus.contracts.description import ErrorContract, EventContract, NodeContract, Schema, ServiceContract
from servicebus.contracts.hashing import contract_hash

__all__ = ["ErrorContract", "EventContract", "NodeContract", "Schema", "ServiceContract", "contract_hash"]
