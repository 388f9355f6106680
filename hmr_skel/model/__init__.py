"""The network SKEL-CF, which predicts SKEL from one image; its camera, and its weights on disk."""
