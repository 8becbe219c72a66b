"""Visualization of a model: sampling points, attention and offsets, as pictures and as an HTML page."""
