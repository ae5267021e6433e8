"""Private. The Sender's engine: its connections, its calls in flight, its paths."""
