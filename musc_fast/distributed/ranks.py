"""The ranks of a run over several processes: messages between them, and errors if one dies.

Over `torch.distributed`: Gloo between CPUs (tensors of a GPU pass through the host), NCCL between
GPUs. Every rank must make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import DistributedError, InputError

TIMEOUT = 1800.0  # seconds, for slow ranks: Gloo and NCCL report a lost peer immediately


def is_timeout(timeout: object) -> bool:
    """Whether `timeout` is a number of seconds that torch can wait."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    return number and 0 < timeout <= 1e9  # type: ignore[operator]


def check_timeout(timeout: object) -> None:
    """Raise InputError unless `timeout` is a number of seconds."""
    if not is_timeout(timeout):
        raise InputError(f"timeout: found {timeout!r}, wanted seconds, more than 0, at most 1e9")


class Ranks:
    """This process among the others of `group` (None: all), over a group of its own.

    timeout: seconds that a rank waits for another. `sent`: bytes of tensors sent so far.
    Raises InputError where torch.distributed is not initialised; every method raises
    DistributedError where another rank has died or is later than the timeout.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, timeout: float = TIMEOUT) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError(
                "group: torch.distributed is not initialised; start the script with torchrun and "
                "call torch.distributed.init_process_group() first"
            )
        check_timeout(timeout)
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.sent = 0
        self._limit = timedelta(seconds=timeout)
        self._members = dist.get_process_group_ranks(group)
        with self.waiting("for the other ranks"):
            joined = dist.new_group(
                self._members, timeout=self._limit, use_local_synchronization=True
            )
        assert isinstance(joined, dist.ProcessGroup)  # this rank is a member
        self._group = joined
        self._through_host = dist.get_backend(self._group) == "gloo"

    @property
    def device(self) -> torch.device:
        """Where tensors lie that this rank has none of its own for."""
        return torch.device("cpu" if self._through_host else "cuda")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Turn what torch raises while we wait `what` into DistributedError."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DistributedError(
                f"rank {self.rank} waited {what} in vain: another of the {self.size} ranks has "
                f"died, or is more than {self._limit.total_seconds():g} s behind ({reason})"
            ) from error

    def gather(self, value: Any) -> list[Any]:
        """The small picklable `value` of every rank, on every rank."""
        values: list[Any] = [None] * self.size
        with self.waiting("for the other ranks"):
            dist.all_gather_object(values, value, group=self._group)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """The block ends on every rank, or with an error on every rank: that of the first."""
        error: Exception | None = None
        try:
            yield
        except DistributedError:
            raise
        except Exception as found:
            error = found
        told = None if error is None else str(error) or type(error).__name__
        for rank, other in enumerate(self.gather(told)):
            if error is not None:
                raise error
            if other is not None:
                raise InputError(f"rank {rank}: {other}")

    def exchange(self, out: Tensor | None, to: int, room: Tensor | None, source: int) -> Exchange:
        """Start sending `out` to rank `to` and receiving into `room` from rank `source`.

        Both ends know the shapes: nothing is sent for an empty tensor or None. Neither tensor may
        change before `wait`.
        """
        ops, landing = [], None
        if out is not None and out.numel() > 0:
            wire = (out.cpu() if self._through_host else out).contiguous()
            ops.append(dist.P2POp(dist.isend, wire, self._members[to], self._group))
            self.sent += wire.nbytes
        if room is not None and room.numel() > 0:
            landing = torch.empty_like(room, device="cpu") if self._through_host else room
            ops.append(dist.P2POp(dist.irecv, landing, self._members[source], self._group))
        with self.waiting(f"for ranks {source} and {to}"):
            works = dist.batch_isend_irecv(ops) if ops else []
        return Exchange(self, works, ops, room, landing, f"for ranks {source} and {to}")

    def ring(self, block: Tensor, sizes: Sequence[int], steps: int) -> Iterator[tuple[int, Tensor]]:
        """The blocks of this rank and the `steps` ranks before it, as (rank, block).

        block: [sizes[rank], ...]. While the caller works on one block, the next is on its way.
        """
        for step in range(steps + 1):
            source = (self.rank - step) % self.size
            under_way = None
            if step < steps:
                count = sizes[(source - 1) % self.size]
                room = block.new_empty((count, *block.shape[1:]))
                before, after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
                under_way = self.exchange(block, after, room, before)
            yield source, block
            if under_way is not None:
                under_way.wait()
                block = room

    def collect(self, tensor: Tensor, sizes: Sequence[int]) -> Tensor | None:
        """[sizes[rank], ...] of every rank joined on rank 0, None on the others."""
        if self.rank > 0:
            self.exchange(tensor, 0, None, 0).wait()
            return None
        parts = [tensor]
        for rank in range(1, self.size):
            parts.append(tensor.new_empty((sizes[rank], *tensor.shape[1:])))
            self.exchange(None, rank, parts[-1], rank).wait()
        return torch.cat(parts)

    def close(self) -> None:
        """Give the group back; not after an error, when it may hang."""
        dist.destroy_process_group(self._group)


@dataclass
class Exchange:
    """A send and a receive under way."""

    ranks: Ranks
    works: list[Any]
    in_use: list[Any]  # the operations, whose tensors must live until they are sent
    room: Tensor | None
    landing: Tensor | None
    what: str

    def wait(self) -> None:
        """Return when both are done."""
        with self.ranks.waiting(self.what):
            for work in self.works:
                work.wait(self.ranks._limit)
        if self.room is not None and self.landing is not None and self.landing is not self.room:
            self.room.copy_(self.landing)
        self.in_use = []
