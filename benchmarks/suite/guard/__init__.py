"""Two revisions of servicebus against each other, on the same broker, pair by pair."""
