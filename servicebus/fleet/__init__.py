"""Private. The fleet as one program sees it over the bus: for the console and the command line."""
