"""Kernels for eager models on a CPU: computation in chunks that fit the cache, with hand-written gradients.

The gradients have no second derivative. docs/performance.md has the measurements.
"""
