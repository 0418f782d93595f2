"""Pairings: which two images a method looks at together, and what relates them."""
