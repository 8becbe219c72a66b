"""How fast models are, how much memory they take, and beside what."""
