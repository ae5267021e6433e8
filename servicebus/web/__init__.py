"""Private. The web console: the fleet over all brokers in a browser. ``servicebus web`` starts it.

Needs Starlette, uvicorn and Jinja2: ``pip install servicebus-failover[web]``.
"""
