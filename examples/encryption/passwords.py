"""Keeps passwords. No queue, log, dead letter or journal shows one: they are secret fields (docs/encryption.rst).

In the file of the agent: ``services: [{group: "passwords:passwords"}]``, ``encryption: {keys: !file encryption.key}``.
"""

from pydantic import BaseModel

from servicebus import Secret, Services

passwords = Services("passwords")
_kept: dict[str, Secret[str]] = {}


class Account(BaseModel):
    user: str
    password: Secret[str]


@passwords.rpc
def keep(account: Account) -> int:
    """Keep the password of an account; how long it is."""
    if len(account.password.reveal()) < 8:
        raise ValueError(f"{account.password.reveal()} is too short")  # the caller reads it, and no log
    _kept[account.user] = account.password
    return len(account.password.reveal())


@passwords.rpc
def get(user: str) -> Secret[str]:
    """The password of a user."""
    return _kept[user]


@passwords.rpc(encrypted=True)
def users() -> list[str]:
    """Whose passwords are kept: encrypted as a whole."""
    return sorted(_kept)
