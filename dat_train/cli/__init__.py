"""Command line: the table of commands, settings, composition by Hydra, errors, help. Imports no torch."""
