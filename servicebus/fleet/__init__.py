"""The fleet as one program sees it over the bus: nodes, brokers and what changes. For the console and the command line."""
