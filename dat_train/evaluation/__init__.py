"""Metrics of a model over a data set, and the files that report them."""
