"""What ``bin/demo`` shows: the bus at work while a broker is killed and comes back."""
