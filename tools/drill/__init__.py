"""Drills: seeded faults that a dataset build must survive."""
