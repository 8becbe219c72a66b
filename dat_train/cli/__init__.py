"""Command line: the table of commands, settings, composition by Hydra, errors, help. Does not import torch."""
