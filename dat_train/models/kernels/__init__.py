"""The few operations that decide how fast a model is, each behind one function that picks how it is computed.

`plain` formulations are ordinary PyTorch: compiled, exported and scripted models are made of them. Run eagerly on a
CPU, a formulation cut into cache-sized parts with a hand-written gradient takes its place (docs/performance.md). For
CUDA, deformable attention has Triton kernels, which are used where they are asked for.
"""
