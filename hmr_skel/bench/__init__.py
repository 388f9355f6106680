"""The measurements of `hmr-skel bench`: the fit, training, and the prediction for one image."""
