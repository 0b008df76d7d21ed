"""The processes of a ``torchrun``, or the only one."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgejpeg.errors import InvalidInputError


@dataclass(frozen=True)
class World:
    """Which process this is, and of how many.

    Attributes:
        rank: 0 .. size - 1.
        size: the number of processes.
        local_rank: the number of this process on its machine, which is its GPU's.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a float64 tensor over all processes; every process gets it. All of them must call this."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))


@contextmanager
def open_world(*, gradients: bool = False) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, or be alone when it did not.

    Sums go over gloo, on the CPU: they are a few kilobytes.

    Args:
        gradients: whether gradients are to be summed as well: where there are GPUs, they go over NCCL.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield World()
        return
    with_nccl = gradients and torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if with_nccl else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    except BaseException as error:
        # The traceback holds on to what the frames hold.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        # Tensors that outlive the process group abort some builds of torch when the process ends.
        gc.collect()
        dist.destroy_process_group()


def device_for(world: World, device: str | None) -> torch.device:
    """The device to compute on: as asked, one GPU for each process of a machine; by default a GPU where there is one.

    Raises:
        InvalidInputError: no such device on this machine.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInputError(f"cannot compute on the device {name!r}: {reason}; cpu always works") from error
    if name == "cuda" and world.size > 1:
        return torch.device("cuda", world.local_rank % torch.cuda.device_count())
    return chosen
