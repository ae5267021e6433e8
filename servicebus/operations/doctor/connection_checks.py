"""Checks of the file and of the way to each broker: secrets, names, TLS, credentials, virtual host."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator

from servicebus.errors import ConnectFailed
from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts
from servicebus.operations.doctor.finding import DoctorFinding

__all__ = [
    "certificates",
    "connections",
    "doubles",
    "login",
    "members",
    "own_certificate",
    "plain_connections",
    "secrets",
]

_DAY_S = 86400.0
_SOON_DAYS = 30
# OpenSSL's codes, X509_V_ERR_...
_NOT_YET, _EXPIRED, _NAME, _ADDRESS = 9, 10, 62, 64
_SETUP = "servicebus setup, or "


def secrets(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    for text in fleet.config.secret_warnings:
        what, _, fix = text.partition(": ")
        cause = "a program that finds it can have any message executed"
        yield DoctorFinding("weak-secret", "", what, cause, f"{fix}, and give it to all nodes: list the old one second")


def plain_connections(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    host = broker.host
    if host.use_ssl and not host.tls.verify:
        yield DoctorFinding(
            "certificate-unverified", host.name, "the broker's certificate is not verified",
            "tls.verify is false: an attacker in between can read and change everything",
            "remove verify: false, and name the authority that has signed the certificate: tls: {ca: ca.pem}",
        )  # fmt: skip
    if _is_local(host.host):
        return
    if not host.use_ssl:
        yield DoctorFinding(
            "plain-connection", host.name, "user, password and messages travel unencrypted to another machine",
            "the host is not configured for TLS", "give the broker a TLS listener, and the host tls: {ca: ca.pem}",
        )  # fmt: skip
    if host.user == "guest" and host.password.reveal() == "guest":
        yield DoctorFinding(
            "default-credentials", host.name, "user and password are those that every RabbitMQ has at first",
            "the file names neither user nor password", f"{_SETUP}rabbitmqctl add_user; then delete the user guest",
        )  # fmt: skip


def _is_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def certificates(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    found, name = broker.certificate, broker.name
    if found is None:
        return
    if found.file_problem:
        cause = "a file is missing, cannot be read, is encrypted, or does not fit the other"
        fix = "check the paths under tls: (relative to the file), and who may read them"
        yield DoctorFinding("tls-files", name, found.file_problem, cause, fix)
        return
    if found.problem_code in (_EXPIRED, _NOT_YET) or (found.ends is not None and found.ends < fleet.now):
        dates = f"it is valid from {_date(found.begins)} to {_date(found.ends)}"
        fix = "renew it, and have the broker read it: rabbitmqctl eval 'ssl:clear_pem_cache().', or start it again"
        cause = f"{dates}; it is one in the chain, or the clock of this machine is wrong"
        yield DoctorFinding("certificate-expired", name, "the broker's certificate is not valid now", cause, fix)
    elif found.problem_code in (_NAME, _ADDRESS):
        wanted = broker.host.server_name
        cause = f"it was made for other names than {wanted}"
        fix = f"connect by a name that it has, say which in tls.server_name, or have one made for {wanted}"
        yield DoctorFinding("certificate-name", name, "the broker's certificate has another name", cause, fix)
    elif found.problem_code:
        ca = broker.host.tls.ca
        cause = f"{found.problem}; known authorities: {ca or 'those of this machine'}"
        fix = (
            "name the file of the authority that has signed it in tls.ca, with those between; or renew the certificate"
        )
        yield DoctorFinding("certificate-untrusted", name, "the broker's certificate is not trusted", cause, fix)
    elif found.ends is not None and found.ends < fleet.now + _SOON_DAYS * _DAY_S:
        days = int((found.ends - fleet.now) / _DAY_S)
        what = f"the broker's certificate ends in {days} days, on {_date(found.ends)}"
        yield DoctorFinding("certificate-expires", name, what, "it was not renewed yet", "renew it before")


def own_certificate(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    found = broker.certificate
    if found is None or found.own_ends is None or found.own_begins is None:
        return
    if found.own_begins > fleet.now or found.own_ends < fleet.now + _SOON_DAYS * _DAY_S:
        what = f"our certificate is valid from {_date(found.own_begins)} to {_date(found.own_ends)}"
        cause = f"{broker.host.tls.certificate} was not renewed"
        yield DoctorFinding(
            "client-certificate", broker.name, what, cause, "renew it, and start agents and Senders again"
        )


def _date(at: float | None) -> str:
    return "?" if at is None else time.strftime("%Y-%m-%d", time.gmtime(at))


def connections(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    """Why there is none, unless it is TLS or the login."""
    error = broker.failure
    if error is None or _is_certificate(broker):
        return
    name, reason = broker.name, getattr(error, "reason", str(error))
    host = broker.host
    if error.kind == "tls":
        fix = f"look whether {host.address} is a TLS listener of the broker: rabbitmq-diagnostics listeners"
        yield DoctorFinding("tls-refused", name, "the TLS handshake fails", reason, fix)
    elif error.kind == "closed" and isinstance(error, ConnectFailed):
        fix = "look which port is AMQP, and which AMQP over TLS (tls: or use_ssl): rabbitmq-diagnostics listeners"
        yield DoctorFinding("not-amqp", name, f"{host.address} does not speak plain AMQP", reason, fix)
    elif error.kind in ("refused", "unreachable", "silent", "closed"):
        cause = {
            "refused": f"nothing listens on {host.address}: the broker is down, or host or port are wrong",
            "unreachable": f"{reason}: the machine is down, a firewall swallows packets, or the name is wrong",
            "silent": f"{reason}: the broker hangs, or something else listens on {host.address}",
        }.get(error.kind, reason)
        fix = "start the broker, or mend host, port and firewall; agents and Senders use the other hosts meanwhile"
        yield DoctorFinding("unreachable", name, f"no connection to {host.address}", cause, fix)


def _is_certificate(broker: BrokerFacts) -> bool:
    found = broker.certificate
    return found is not None and bool(found.file_problem or found.problem_code)


def login(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    error, host = broker.failure, broker.host
    if error is None:
        return
    reason = getattr(error, "reason", str(error))
    if error.kind == "limits":
        fix = "raise it (rabbitmqctl set_vhost_limits, set_user_limits), or close connections: each worker needs two"
        yield DoctorFinding("connection-limit", host.name, "the broker takes no further connection", reason, fix)
    elif error.kind == "credentials" and "virtual host" in reason:
        what = f"the broker does not let user {host.user!r} into virtual host {host.virtual_host!r}"
        cause = "it does not exist, or the user has no rights in it"
        fix = f"{_SETUP}rabbitmqctl add_vhost and set_permissions"
        yield DoctorFinding("virtual-host", host.name, what, cause, fix)
    elif error.kind == "credentials":
        what = f"the broker refuses user {host.user!r}"
        cause = "there is no such user, the password is another, or it is guest, who may come from loopback only"
        fix = f"{_SETUP}rabbitmqctl add_user or change_password; put user and password into the file"
        yield DoctorFinding("credentials", host.name, what, cause, fix)
    elif error.kind == "topology":
        fix = f"{_SETUP}rabbitmqctl set_permissions"
        yield DoctorFinding("permissions", host.name, "the broker refuses what the bus does", reason, fix)


def members(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for address, why in broker.members_down.items():
        what, cause = f"no connection to member {address}", f"{why}: it is down, or its address is wrong"
        yield DoctorFinding("member-unreachable", broker.name, what, cause, "start it, or mend members: in the file")


def doubles(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    if broker.same_as:
        cause = "two names, addresses or ports lead to one broker: when it fails, both fail"
        fix = "name another broker; the members of one cluster stand together, under members:"
        yield DoctorFinding("same-broker", broker.name, f"it is the same broker as {broker.same_as}", cause, fix)
