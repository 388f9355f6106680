"""From photographs and videos to SKEL: people's boxes, the camera, the network, and what is written of it."""
