"""SMPL predictions of others, converted to SKEL and evaluated as if a network had predicted SKEL."""
