"""Asks the services of jwt_shop.py for a user: ``python jwt_customer.py sender.yaml NODE-01 USER ROLE...``."""

import os
import sys
import time

import jwt

from servicebus import Sender
from servicebus.errors import PermissionDenied

ISSUER_KEY = os.environ.get("JWT_KEY", "the key of the issuer, for trying out only")


def token_of(user: str, *roles: str, good_for_s: float = 60.0) -> str:
    """What an issuer would hand out."""
    claims = {"sub": user, "roles": list(roles), "exp": time.time() + good_for_s}
    return jwt.encode(claims, ISSUER_KEY, algorithm="HS256")


def main(file: str, node: str, user: str, *roles: str) -> None:
    context = {"authorization": token_of(user, *roles)}
    with Sender(file) as sender:
        for name, params in (("whoami", []), ("price", ["apple"]), ("set_price", ["apple", 250])):
            try:
                print(name, sender.call(f"{node}.shop.{name}", params, context=context)[1])
            except PermissionDenied as error:
                print(name, f"refused by {error.rule}: {error.detail}")


if __name__ == "__main__":
    main(*sys.argv[1:])
