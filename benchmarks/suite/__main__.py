"""``python -m benchmarks.suite``, which is what bin/bench runs."""

from benchmarks.suite.cli import main

if __name__ == "__main__":
    main(prog_name="bench")
