"""Kernels for eager models on a CPU: work cut into chunks of the cache's size, with hand-written gradients.

The gradients have no second derivative. docs/performance.md has the measurements.
"""
