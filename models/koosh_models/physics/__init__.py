"""Linear operators and the problems made of them."""
