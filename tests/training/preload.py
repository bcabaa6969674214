"""Modules that the server of test processes loads once.

They are those that torch would import at the first optimizer step. No threads are started.
"""

import torch._dynamo

from tests.training import training_runs

optimizer = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())
optimizer.zero_grad()
assert training_runs.MASK_ID
