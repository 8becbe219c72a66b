"""Measurements of speed and memory of models, compared with a baseline."""
