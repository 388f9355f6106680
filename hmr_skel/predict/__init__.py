"""Predicts SKEL from photographs and videos: finds people, takes the camera, runs the network, writes files."""
