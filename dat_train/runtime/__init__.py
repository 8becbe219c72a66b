"""Devices, processes, precision, terminal and checkpoint files, as used by all commands."""
