"""What the two programs of py-servicebus 2.19 share; for its interpreter, so only the standard library and 2.19 itself.

Hosts of 2.19 have one port for all; here each has its own, and a cluster's members are given as hosts of their own,
which is the best that 2.19 can make of a cluster.
"""

import json
import sys
from pathlib import Path

from servicebus.message import MessageSender

from servicebus.configuration import Configuration

CALLS = {"echo": 0.86, "slow": 0.05, "idem": 0.06, "fails": 0.03}
MESSAGES = {"record": 0.80, "slow": 0.07, "flaky": 0.11, "broken": 0.02}
"""As in ``services``, which cannot be imported here; a test holds them together."""


class Hosts(Configuration):
    """A Configuration whose hosts are ``address:port``; made from a configuration of ours."""

    def __init__(self, values):
        super().__init__(
            {
                "hosts": addresses(values),
                "user": values.get("user", "guest"),
                "password": values.get("password", "guest"),
                "node_name": values["node_name"],
                "secret_token": values["secret_token"],
            }
        )

    def create_receiver(self, host, close_ioloop=True):
        address, self.port = split(host)
        return super().create_receiver(address, close_ioloop)

    def _Configuration__create_message_sender(self, host):  # noqa: N802 - the only place where it takes the port
        address, port = split(host)
        return MessageSender(address, port, self.user, self.password, self.use_ssl, self.socket_timeout)


def addresses(values):
    """``address:port`` of every broker and of every member of a cluster, in order of preference."""
    found = []
    for host in values["hosts"]:
        found += host["members"] if "members" in host else ["{host}:{port}".format(**host)]
    return found


def names(values):
    """The name under which the rig knows each of these: that of its host."""
    return {
        address: host["name"] for host in values["hosts"] for address in addresses({"hosts": [host]})
    }  # fmt: skip


def split(host):
    address, port = host.rsplit(":", 1)
    return address, int(port)


def read_orders():
    return json.loads(Path(sys.argv[1]).read_text())
