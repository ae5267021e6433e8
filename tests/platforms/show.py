"""Prints in one line what the tests run on: ``platform: Debian 12.11, Linux 6.18, 2 cores, Python 3.11.7, ...``."""

from __future__ import annotations

import os
import platform
import re
import ssl
import subprocess
from pathlib import Path

from servicebus.errors import ServiceBusError
from servicebus.testing.program import find_broker_program


def distribution() -> str:
    try:
        name = platform.freedesktop_os_release().get("NAME", "").removesuffix(" GNU/Linux")
        # VERSION_ID has no point release, and is missing on a release to come.
        return f"{name} {Path('/etc/debian_version').read_text().strip()}"
    except OSError:
        return platform.system()


def rabbitmq() -> str:
    try:
        plugins = find_broker_program().resolve().parent.parent / "plugins"
    except ServiceBusError:
        return "no RabbitMQ"
    versions = [found[1] for path in plugins.glob("rabbit-*") if (found := re.fullmatch(r"rabbit-([\d.]+)", path.name))]
    return f"RabbitMQ {', '.join(versions) or 'of unknown version'}"


def erlang() -> str:
    show = "io:format(erlang:system_info(otp_release)), halt()."
    try:
        done = subprocess.run(
            ["erl", "-noshell", "-eval", show], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "no Erlang"
    return f"OTP {done.stdout}"


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parts = [
        distribution(),
        f"Linux {platform.release()}",
        f"{cores} cores",
        f"Python {platform.python_version()}",
        rabbitmq(),
        erlang(),
        ssl.OPENSSL_VERSION.rsplit(" ", 3)[0],
    ]
    print("platform:", ", ".join(parts), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
