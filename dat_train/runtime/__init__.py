"""Devices and processes, precision, terminal, and the checkpoint file: what every command needs."""
