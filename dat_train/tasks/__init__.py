"""Training tasks: implementations of the interface in training/task.py."""
