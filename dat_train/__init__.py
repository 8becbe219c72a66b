"""dat-train: train, evaluate and look into the Deformable Attention Transformer."""

__version__ = "0.1.0"
