"""The rig: senders and agents against failing brokers, a history of all they do, and a checker that reads it."""
