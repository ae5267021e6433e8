"""Asks the services of passwords.py: ``python set_password.py sender.yaml NODE-01 USER``. The password is typed in."""

import getpass
import sys

from passwords import Account, passwords

from servicebus import Secret, Sender
from servicebus.errors import RemoteError


def main(file: str, node: str, user: str) -> None:
    account = Account(user=user, password=Secret(getpass.getpass()))
    print("asked for", account)
    with Sender(file) as sender:
        client = sender.client(node, passwords)
        try:
            print("kept, of length", client.keep(account))
        except RemoteError as error:
            print("refused:", error.message)
            return
        print("it is kept as", client.get(user), "beside those of", client.users())


if __name__ == "__main__":
    main(*sys.argv[1:])
