"""What is done a thousand times by endurance.py: one module for each of its parts, and each can go on for as long."""

CLOSE_ALL = '[catch rabbit_networking:close_connection(P, "endurance") || P <- rabbit_networking:connections()], ok.'
"""For a broker's shell."""
CHECKS = 10
"""So often a footprint is compared along the way."""
PAUSE_S = 0.02
"""Between two requests of the traffic."""
SENDERS = 4
