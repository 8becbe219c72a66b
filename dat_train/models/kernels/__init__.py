"""The few operations that decide how fast a model is, each behind one function that picks how it is computed.

`plain` formulations are ordinary PyTorch: compiled, exported and scripted models are made of them. Run eagerly on a
CPU, a formulation cut into cache-sized parts with a hand-written gradient is two to three times as fast
(docs/performance.md); on CUDA, deformable attention is a Triton kernel.
"""
