"""The open body: an openly licensed person in SMPL's and SKEL's file formats."""
