"""One thread a process: the models are so small that a second thread only waits."""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that the tests start
torch.set_num_threads(1)
