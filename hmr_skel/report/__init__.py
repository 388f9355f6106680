"""Write a web page about the quality of a dataset."""
