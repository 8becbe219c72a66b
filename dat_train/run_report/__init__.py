"""Curves, records and comparison pages of training runs."""
