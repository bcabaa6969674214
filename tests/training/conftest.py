"""One thread each: these models are so small that a second one only waits, most of all on a busy
machine.
"""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that the tests start
torch.set_num_threads(1)
