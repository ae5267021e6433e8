"""Private. Pure: bytes to values and back. No socket, file, clock or thread."""
