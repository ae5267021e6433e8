"""``servicebus token check``: whose key it is, and what may be done with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import IO, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import TEXT, config_option, json_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, SignatureError
from servicebus.policy.clocks import check_fresh
from servicebus.protocol.callers import keyring_of, permissions_of
from servicebus.wire.address import Address
from servicebus.wire.envelope import EVENT, MESSAGE
from servicebus.wire.events import EventName
from servicebus.wire.printable import printable
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_envelope

_ALL = "everything: it is the secret of the bus"
_RULES = ("allow", "deny", "publish")


@click.group()
def token() -> None:
    """Work with the keys of callers."""


@token.command()
@click.argument("addresses", type=TEXT, nargs=-1, metavar="[ADDRESS]...")
@config_option
@click.option("--caller", type=TEXT, metavar="NAME", help="Of the caller of that name.")
@click.option("--key", type=click.File("rb"), metavar="FILE", help="Of whom this key is; - reads it from stdin.")
@click.option("--envelope", type=click.File("rb"), metavar="FILE", help="Of who has signed this envelope; - is stdin.")
@click.option(
    "--event", "events", type=TEXT, multiple=True, metavar="NAME", help="Of this event, too. May be repeated."
)
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    addresses: tuple[str, ...],
    configuration: Configuration,
    caller: str | None,
    key: IO[bytes] | None,
    envelope: IO[bytes] | None,
    events: tuple[str, ...],
) -> None:
    """Tell by the file of an agent whose a key is, and whether its owner may call each ADDRESS.

    One of --caller, --key and --envelope says who is meant; without them it is who the file itself signs as. An ADDRESS
    is NODE.category.name, called or sent messages to. Connects to nothing. Exit status 0 if all of it is allowed, 6 if
    something is not, or nobody has that key.

    Example: servicebus token check -c agent.yaml --key shop.key NODE-01.math.add
    """
    if sum(each is not None for each in (caller, key, envelope)) > 1:
        raise click.UsageError("takes one of --caller, --key and --envelope")
    targets = [(str(Address.parse(each)), False) for each in addresses]
    targets += [(str(EventName.parse(each)), True) for each in events]
    document: dict[str, Any] = {}
    if envelope is not None:
        document, target = _signed(configuration, envelope.read())
        targets.insert(0, target)
    else:
        document = _known(configuration, caller, key)
    document["targets"] = found = _decided(configuration, document["caller"], targets)
    ctx.ensure_object(Output).result(
        document, printable("\n".join(_lines(configuration, document)), keep_newlines=True)
    )
    is_good = all(each["allowed"] for each in found) and not document.get("refused")
    ctx.exit(ExitCode.OK if is_good else ExitCode.REFUSED)


def _known(configuration: Configuration, caller: str | None, key: IO[bytes] | None) -> dict[str, Any]:
    """The caller that an option names."""
    if key is not None:
        secret = key.read().decode("utf-8", "surrogatepass").removeprefix("\ufeff").rstrip("\r\n")
        if not secret:
            raise click.BadParameter("it is empty", param_hint="--key")
        # A key id alone proves nothing: who has the key can sign.
        mine, known = Keyring([secret]), keyring_of(configuration)
        probe = mine.sign_bytes(b"servicebus token check", b"")
        name = known.caller_of(probe)
        entry = configuration.callers.get(name)
        if secret not in (configuration.secrets if entry is None else entry.secrets):
            raise SignatureError(f"no key that is known here is this one, though one has its id {mine.key_id}")
        return _document(configuration, name, mine.key_id)
    name = caller if caller is not None else configuration.caller or ""
    if caller is not None and caller not in configuration.callers:
        names = ", ".join(configuration.callers) or "none"
        raise click.BadParameter(f"no caller of the file; they are: {names}", param_hint="--caller")
    entry = configuration.callers.get(name)
    return _document(configuration, name, Keyring(entry.secrets if entry else configuration.secrets).key_id)


def _signed(configuration: Configuration, body: bytes) -> tuple[dict[str, Any], tuple[str, bool]]:
    """Who has signed the envelope *body*, and what it asks for. Raises EnvelopeError: it cannot be believed."""
    found = decode_envelope(body, configuration.max_envelope_bytes)
    name = keyring_of(configuration).verify_envelope(found)
    document = _document(configuration, name, found.token[:8])
    document |= {"id": found.id, "kind": found.kind.value, "sent": found.sent_ms / 1000}
    good_s = configuration.token_max_age if found.kind in (MESSAGE, EVENT) else found.ttl_ms / 1000
    try:
        check_fresh(found.sent_ms, good_s, int(time.time() * 1000), configuration.clock_skew)
    except EnvelopeError as error:
        document["refused"] = str(error)
    return document, (found.address, found.kind is EVENT)


def _document(configuration: Configuration, name: str, key_id: str) -> dict[str, Any]:
    entry = configuration.callers.get(name)
    key_ids = Keyring(configuration.secrets if entry is None else entry.secrets).key_ids
    rules = {} if entry is None else {rule: list(getattr(entry, rule)) for rule in _RULES}
    return {"caller": name, "key_id": key_id, "key_ids": list(key_ids), **rules}


def _decided(configuration: Configuration, caller: str, targets: Sequence[tuple[str, bool]]) -> list[dict[str, Any]]:
    permissions, found = permissions_of(configuration), []
    for target, is_event in targets:
        if caller in configuration.callers:
            is_allowed, rule = permissions.decide(caller, target, is_event=is_event)
        else:
            is_allowed, rule = True, "secret_token"
        found.append({"target": target, "event": is_event, "allowed": is_allowed, "rule": rule})
    return found


def _lines(configuration: Configuration, document: dict[str, Any]) -> list[str]:
    name, others = document["caller"], [each for each in document["key_ids"] if each != document["key_id"]]
    more = f" (also: {', '.join(others)})" if others else ""
    lines = [f"caller  {name or 'none: a peer with the secret of the bus'}", f"key     {document['key_id']}{more}"]
    if "id" in document:
        lines.append(f"signed  {document['kind']} {document['id']}")
    if name in configuration.callers:
        lines += [f"{rule:<7} {', '.join(document[rule]) or 'nothing'}" for rule in _RULES]
    else:
        lines.append(f"allow   {'what the callers of each node say' if name else _ALL}")
    if "refused" in document:
        lines.append(f"REFUSED {document['refused']}")
    for each in document["targets"]:
        lines.append(f"{'allowed' if each['allowed'] else 'DENIED '} {each['target']}, by {each['rule']}")
    return lines
