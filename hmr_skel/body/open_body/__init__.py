"""The open body: an openly licensed person in SMPL's and SKEL's file formats.

`export.export_body(directory)` writes the files; `unpack.unpack()` gives the arrays.
"""
