"""Training loop, optimizer, schedule, run folder, checkpoints and loggers."""
