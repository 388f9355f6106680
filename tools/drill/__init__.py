"""Drills: what a dataset build must survive, done to it on purpose, with a seed."""
