"""The command line ``servicebus``: one file per command, exit codes in ``exit_codes``, put together in ``main``."""
