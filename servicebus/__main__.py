"""Private. ``python -m servicebus``: a show on a bus in memory; with arguments, the program ``servicebus``."""

import sys


def main() -> None:
    """End by SystemExit."""
    if len(sys.argv) > 1:
        from servicebus.cli.main import main as program

        program()
    else:
        from servicebus.cli.show import show

        sys.exit(show())


if __name__ == "__main__":
    main()
