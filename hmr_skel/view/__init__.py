"""A live page of bodies: rows of a dataset, converted clips and predictions, played in the browser."""
