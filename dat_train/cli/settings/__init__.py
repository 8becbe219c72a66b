"""Settings of the commands: names, types, meaning and limits. Their values, with reasons, are in conf/*.yaml."""
