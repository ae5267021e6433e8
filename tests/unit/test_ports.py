"""Ports of private brokers: the one that documents name, unless it is taken."""

import socket

from servicebus.testing.ports import LOOPBACK, free_ports, port_or_another


def test_the_wanted_port_is_taken_where_it_is_free() -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        wanted = probe.getsockname()[1]
    assert port_or_another(wanted) == wanted


def test_another_port_is_taken_where_the_wanted_one_is_not_free() -> None:
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        assert port_or_another(holder.getsockname()[1]) != holder.getsockname()[1]
    (claimed,) = free_ports(1)
    assert port_or_another(claimed) != claimed, "another broker of this process has it, though it may be down"
