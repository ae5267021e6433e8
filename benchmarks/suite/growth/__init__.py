"""How the cost of a call grows: real nodes in processes of their own, and curves with their shapes."""
