"""A dataset's quality as one web page."""
