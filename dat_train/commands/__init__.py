"""The commands: configuration, parts, run, report."""
