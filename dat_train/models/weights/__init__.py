"""Weights: reading of checkpoints and released files, their translation and fitting, downloads, averaging."""
