"""The parts of the suite, and the commands that are about all of them."""
