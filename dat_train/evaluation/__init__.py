"""Metrics of a model over a loader, and reports of them."""
