"""Private. Sockets. The only package that imports pika."""
