"""Gloo process groups with one thread that runs collectives; torch starts two for each group.

Each of the two writes the name of the collective that it has finished into the same string, without
a lock (`c10d::ProcessGroupGloo::runLoop`). The name of the collective that gathers shards
(ALLGATHER_COALESCED) is longer than the string's own buffer. When both threads finish at once, its
memory is freed twice, and the process dies: "malloc(): unaligned tcache chunk detected".

Remove when torch writes that name under a lock (torch 2.14 does not).
"""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_NAME = "gloo_one_thread"


def _create(asked: Any, options: Any) -> Any:
    """Creates what torch creates for "gloo", with one thread.

    GLOO_SOCKET_IFNAME, interfaces separated by commas, is taken into account as torch does.
    """
    gloo: Any = dist.ProcessGroupGloo
    interfaces = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    settings = gloo._Options()
    settings._devices = [gloo.create_device(interface=name) for name in interfaces] or [
        gloo.create_default_device()
    ]
    settings._threads = 1
    settings._timeout = asked.timeout
    group = gloo(asked.store, asked.group_rank, asked.group_size, settings)
    group.options.global_ranks_in_group = asked.global_ranks_in_group
    group.options.group_name = asked.group_id
    return group


@functools.cache
def single_threaded_gloo() -> str:
    """Returns the name of the backend, for `init_process_group` and `new_group`."""
    dist.Backend.register_backend(_NAME, _create, extended_api=True, devices=["cpu"])
    return _NAME


def set_gloo_timeout(group: Any, timeout: timedelta) -> None:
    """Sets how long the collectives of a formed gloo group wait for the other processes.

    Remove when every supported torch has `torch.distributed.set_timeout` (2.14 has it, 2.11 not).
    """
    group._get_backend(torch.device("cpu"))._set_default_timeout(timeout)
