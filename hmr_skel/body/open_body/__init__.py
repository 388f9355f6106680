"""The open body: an openly licensed body in SMPL's and SKEL's file formats."""
