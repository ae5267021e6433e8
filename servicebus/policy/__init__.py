"""Private. Pure: decisions. Time is an argument; no socket, file, clock or thread."""
