"""Where images come from: reading, order, augmentation, loaders."""
