"""The training loop and what only the loop needs."""
