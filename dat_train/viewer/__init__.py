"""Sampling points, attention and offsets of a trained model, as pictures and as a page."""
