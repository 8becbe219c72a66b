"""Tasks a model is trained for, through the interface in training/task.py."""
