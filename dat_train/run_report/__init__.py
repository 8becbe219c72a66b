"""Reports of training runs: curves, and a page that compares runs."""
