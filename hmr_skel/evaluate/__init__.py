"""Errors of predictions against annotations."""
