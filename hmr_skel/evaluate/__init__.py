"""Compare predictions with annotations."""
