"""The default data: synthetic annotations in CameraHMR's label format, with pictures, from open models only."""

LABELS_VERSION = 1
"""Raise it by one whenever `make_labels` makes other labels, then write the golden values anew with
`python -m tests.golden`. Label files of another version are made again, and what was fitted to them is fitted again."""
