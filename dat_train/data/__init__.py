"""Image data: reading, sample order, augmentation, loaders."""
