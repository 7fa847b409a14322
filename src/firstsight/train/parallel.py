"""Training in several processes: the process group, sharded parameters (FSDP2), and sums over the group.

Each process (a rank) reads its own rows of every step, and has a part of the rows of every parameter, gradient and
moment. Without a process group all functions here return their argument, and nothing of torch.distributed is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from firstsight.errors import RequestError, StepFailed
from firstsight.model.layers import Block
from firstsight.site import Site

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

ENCODER_LAYERS = (
    *("SiglipEncoderLayer", "CLIPEncoderLayer", "Dinov2Layer", "Dinov2WithRegistersLayer", "DINOv3ViTLayer"),
)
"""Classes of transformers whose modules are sharded one by one, as the decoder's blocks are."""

_mesh: DeviceMesh | None = None
"""The ranks of this process's group: one dimension `shard`, or `replicate` before it. None in a single process."""


@contextmanager
def process_group(site: Site, store: Any, *, rank: int, local_rank: int) -> Iterator[Site]:
    """Join the group of `site.processes` ranks that meet at `store`; gives the site of this rank, with its own GPU.

    The backend is gloo for tensors on a CPU and nccl for those on a GPU. StepFailed if another rank does not take part
    in a collective operation for `site.collective_timeout` seconds.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    global _mesh
    is_cpu, size = site.device == "cpu", site.processes
    if not is_cpu:
        site = replace(site, device=f"cuda:{local_rank}")
        torch.cuda.set_device(local_rank)
    backend = "gloo" if is_cpu else "cpu:gloo,cuda:nccl"
    shards = site.shard_group or size
    shape, names = ((size,), ("shard",)) if shards == size else ((size // shards, shards), ("replicate", "shard"))
    timeout = timedelta(seconds=site.collective_timeout)
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        _mesh = init_device_mesh("cpu" if is_cpu else "cuda", shape, mesh_dim_names=names)
        yield site
    except RuntimeError as error:
        if not re.search("(?i)timed out|timeout", str(error)):
            raise
        raise StepFailed(
            f"rank {rank} of {size} processes got no answer of another rank for {site.collective_timeout:g} s: it "
            "hangs, or is slower than that. All were ended. The same command continues from the last resume point; "
            "collective_timeout in [machine] of the site file sets the seconds."
        ) from error
    finally:
        _mesh = None
        if dist.is_initialized():
            dist.destroy_process_group()


def check_processes(site: Site) -> None:
    """RequestError for numbers of processes that do not fit each other."""
    if site.shard_group and site.processes % site.shard_group:
        raise RequestError(
            f"shard_group: wanted a divisor of {site.processes} processes. Got {site.shard_group}. Change either."
        )
    if site.processes > 1 and ":" in site.device:
        raise RequestError(
            f"device: wanted cuda or cpu for {site.processes} processes. Got {site.device}. Each takes its own GPU."
        )


def rank() -> int:
    """This process's number in the group; 0 is the one that writes all files but resume points."""
    return 0 if _mesh is None else torch.distributed.get_rank()


def world_size() -> int:
    """Processes of the group; 1 without one."""
    return 1 if _mesh is None else _mesh.size()


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks."""
    if _mesh is not None:
        torch.distributed.all_reduce(tensor)
    return tensor


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true on any rank."""
    return flag if _mesh is None else bool(total(torch.tensor(int(flag), device=_mesh.device_type)))


def background_group() -> Any:
    """A group of all ranks for a thread beside the one that trains; None without one. All ranks make it together."""
    return None if _mesh is None else torch.distributed.new_group(backend="gloo")


def from_main(value: Any, group: Any = None) -> Any:
    """The value that rank 0 passed, on all ranks; it is pickled. In a thread with its `background_group`."""
    values = [value]
    if _mesh is not None:
        torch.distributed.broadcast_object_list(values, src=0, group=group)
    return values[0]


def from_all(value: Any, group: Any = None) -> list[Any]:
    """The values of all ranks, in their order; they are pickled. In a thread with its `background_group`."""
    values = [value] * world_size()
    if _mesh is not None:
        torch.distributed.all_gather_object(values, value, group=group)
    return values


def place_model(model: nn.Module, device: str, *, compute_dtype: torch.dtype) -> None:
    """Move a model to a device, or shard its parameters over the group.

    Blocks are gathered one by one, in `compute_dtype`, which they cast their weights to in one process too; gradients
    are summed in float32. The rest (embeddings, head, projector) is gathered once for a forward and backward pass.
    """
    if _mesh is None:
        model.to(device)
        return
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    narrow = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in list(model.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=_mesh, mp_policy=narrow)
        elif type(module).__name__ in ENCODER_LAYERS:
            fully_shard(module, mesh=_mesh, mp_policy=exact)
    fully_shard(model, mesh=_mesh, mp_policy=exact, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # sums, since the loss is divided by the loss tokens of all ranks
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def set_gradient_sync(model: nn.Module, *, is_last: bool) -> None:
    """Sum gradients over the ranks in the next backward pass only if its micro-batch is the last one of a step."""
    if _mesh is not None:
        model.set_requires_gradient_sync(is_last)  # pyright: ignore[reportCallIssue]


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor, which share its memory; other tensors as they are."""
    return tensor if _mesh is None else getattr(tensor, "_local_tensor", tensor)


def local_rows(tensor: Tensor) -> slice:
    """Which rows of a sharded tensor this rank has; all rows of other tensors."""
    if _mesh is None or not hasattr(tensor, "placements"):
        return slice(0, tensor.shape[0])
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sharded: Any = tensor
    shape, offset = compute_local_shape_and_global_offset(sharded.shape, sharded.device_mesh, sharded.placements)
    return slice(offset[0], offset[0] + shape[0]) if shape[0] else slice(0, 0)


def sum_over_shards(values: Tensor) -> Tensor:
    """The sum over the ranks that share one copy of the parameters."""
    if _mesh is not None:
        torch.distributed.all_reduce(values, group=_mesh.get_group("shard"))
    return values


class WholeTensors(Mapping[str, Tensor]):
    """Sharded tensors by name, each gathered from the group on access: one whole tensor in memory at a time.

    All ranks access the same names in the same order; `gather` does that on those that do not use the tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        tensor: Any = self._tensors[name]
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def gather(self) -> None:
        """Take part in the gathering of all tensors in the order in which `write_tensors` writes them."""
        for name in sorted(self._tensors):
            self[name]
