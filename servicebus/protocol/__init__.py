"""Private. The protocol versions: what a Sender and an agent send, and how each reads what the other has sent.

``v2`` is the signed envelope of docs/wire-format, ``v1`` the envelope of py-servicebus 2.x (``compat: true``). Each has
both sides in one class, the Sender's first; ``interface`` says what either side is asked for.
"""
