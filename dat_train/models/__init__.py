"""The Deformable Attention Transformer as timm models."""
