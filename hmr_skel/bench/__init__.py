"""What `hmr-skel bench` measures: the fit, training, and the prediction of one image."""
