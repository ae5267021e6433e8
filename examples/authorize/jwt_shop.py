"""Services that let in who brings a JSON Web Token: ``python jwt_shop.py agent.yaml``.

Needs ``pip install PyJWT``. The caller puts the token into the context, so that it goes along with what services ask
in turn (docs/callers.rst). Who has issued it says who the user is and what he may do; the bus says which program asks.
"""

import os
import sys
from collections.abc import Callable, Mapping

import jwt

from servicebus import Deny, ServiceBus, Services
from servicebus.services import Request

ISSUER_KEY = os.environ.get("JWT_KEY", "the key of the issuer, for trying out only")


def claims_of(context: Mapping[str, str]) -> dict[str, object]:
    """What the token in *context* says. Raises Deny: there is none, it has expired, or another has signed it."""
    try:
        return jwt.decode(
            context["authorization"], ISSUER_KEY, algorithms=["HS256"], options={"require": ["exp", "sub", "roles"]}
        )
    except KeyError:
        raise Deny("the context has no authorization") from None
    except jwt.InvalidTokenError as error:
        raise Deny(f"{type(error).__name__}: {error}") from None


def role(wanted: str) -> Callable[[Request, Mapping[str, str]], bool]:
    """Lets in whose token has the role *wanted*."""

    def authorize(_request: Request, context: Mapping[str, str]) -> bool:
        roles = claims_of(context)["roles"]
        if not isinstance(roles, list) or wanted not in roles:
            raise Deny(f"the token has not the role {wanted}")
        return True

    return authorize


shop = Services("shop", authorize=role("customer"))


@shop.rpc
def price(sku: str) -> int:
    """In cents."""
    return len(sku) * 100


@shop.rpc
def whoami(request: Request) -> str:
    """The user, and the program that asks for him."""
    return f"{claims_of(request.context)['sub']} by {request.caller or 'the bus'}"


@shop.rpc(authorize=role("manager"))
async def set_price(sku: str, cents: int) -> str:
    """For managers alone."""
    return f"{sku} costs {cents}"


if __name__ == "__main__":
    bus = ServiceBus(sys.argv[1])
    bus.include(shop)
    sys.exit(bus.run())
