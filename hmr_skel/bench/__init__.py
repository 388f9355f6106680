"""What `hmr-skel bench` measures: the fit beside the published protocol and a long search, training, one image."""
