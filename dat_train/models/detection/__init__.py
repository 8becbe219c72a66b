"""Object detection and instance segmentation on torchvision's building blocks, as DAT++ was trained and evaluated."""
