"""What an operator does to brokers by hand: dead letters, maintenance. The command line is a thin skin over it."""
