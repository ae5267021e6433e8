"""What is wrong with a bus, why, and what to do about it.

Facts are gathered first (``amqp_facts``, ``management_facts``, ``certificates``; the command asks the nodes), and the
checks read nothing else: each is a small function that yields findings, listed in ``checks``.
"""
