"""Settings every test shares."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores, several processes: one thread each is fastest

import torch

torch.set_num_threads(1)
