"""Private. What ``servicebus top`` shows on a terminal with the extra tui; textual is imported here alone."""
