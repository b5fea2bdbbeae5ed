"""``udx check``: what is in an exported detector, and what each backend will do with it; imports no torch."""
