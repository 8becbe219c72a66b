"""Implementation of the commands dat-train, dat-eval, dat-predict, ..."""
