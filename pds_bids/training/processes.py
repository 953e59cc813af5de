"""Sums over the processes of a distributed training; nothing to do where there is one."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

__all__ = ["average_changes", "copy_from_first", "n_processes", "sum_gradients", "sum_over_processes"]


def n_processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes, the same bits in each of them."""
    if n_processes() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their sum over processes; one message for all of them.

    A parameter without a gradient in every process keeps none, so that the optimiser leaves it alone.
    """
    if n_processes() == 1:
        return
    has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    summed = sum_over_processes(torch.cat([has, *(part.flatten().float() for part in parts)]))
    counts, start = summed[: len(parameters)].tolist(), len(parameters)
    for parameter, count in zip(parameters, counts, strict=True):
        stop = start + parameter.numel()
        if count:
            parameter.grad = summed[start:stop].view_as(parameter).clone()
        start = stop


@torch.no_grad()
def average_changes(buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Let every process have the mean change of running scales; what did not change stays exactly."""
    if n_processes() == 1 or not buffers:
        return
    flat = torch.cat([(now - old).flatten() for now, old in zip(buffers, before, strict=True)])
    mean, start = sum_over_processes(flat) / n_processes(), 0
    for now, old in zip(buffers, before, strict=True):
        stop = start + now.numel()
        now.copy_(old + mean[start:stop].view_as(old))
        start = stop


@torch.no_grad()
def copy_from_first(module: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    if n_processes() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            distributed.broadcast(tensor.data, 0)
