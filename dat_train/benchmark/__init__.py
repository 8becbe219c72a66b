"""Measurements of speed and memory of models, next to a baseline."""
