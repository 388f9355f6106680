"""The default data: synthetic annotations in CameraHMR's label format, with pictures, from open models only."""
