"""Private. Processes and threads of an agent."""
