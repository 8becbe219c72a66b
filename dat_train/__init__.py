"""dat-train: train, evaluate and visualize the Deformable Attention Transformer."""

__version__ = "0.2.0"
