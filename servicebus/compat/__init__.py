"""Private. py-servicebus 2.x on the wire, "version 1" here: its envelopes, tokens, texts and names. Pure."""
