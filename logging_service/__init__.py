"""The log server: collects the records of all processes by UDP and writes them into one rotated file."""
