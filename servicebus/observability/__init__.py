"""Private. What processes count of their work, and how it is shown: metrics and health."""
