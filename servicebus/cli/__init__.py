"""Private. The command line ``servicebus``: one file per command, put together in ``main``; codes in ``exit_codes``."""
