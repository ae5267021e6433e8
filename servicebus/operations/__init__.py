"""Private. What an operator does to brokers by hand: dead letters, maintenance. The command line calls it."""
