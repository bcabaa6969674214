"""What the server of test processes loads once: the modules that torch would import at the first
optimizer step. No threads.
"""

import torch._dynamo

from tests.training import helpers

optimizer = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters())
optimizer.zero_grad()
assert helpers.MASK_ID
