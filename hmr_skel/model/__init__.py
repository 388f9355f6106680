"""SKEL-CF: the network that predicts SKEL from one image, its camera, and its weights on disk."""
