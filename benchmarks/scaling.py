"""A model of several ranks: bytes sent against operations, for one layer and degree.

    python benchmarks/scaling.py

Arithmetic, not measurement; docs/scaling.md explains it. tests/distributed checks
the bytes that are sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from lib.program import make_parser
from musc_fast.distributed.ring import ring_bytes, round_bytes

PATCHES, CHANNELS = 1369, 1024


@dataclass(frozen=True)
class Cluster:
    """Ranks that each do `flops` operations and send `link` bytes a second, with `memory` bytes."""

    name: str
    ranks: int
    link: float
    flops: float = 5e14  # a sustained bf16 rate to plan with, about half an H100's peak
    memory: float = 60e9


CLUSTERS = (Cluster("8 x H100, NVLink", 8, 450e9), Cluster("16 x H100, 100 GbE", 16, 12.5e9))


def rounds_of(images: int, cluster: Cluster) -> int:
    """The number of rounds in which a rank's images are scored, chosen as `ring` chooses it."""
    own, rounds = -(-images // cluster.ranks), 1
    while 2 * round_bytes(-(-own // rounds), PATCHES, images, CHANNELS) > cluster.memory:
        rounds += 1
    return rounds


def seconds(images: int, cluster: Cluster) -> tuple[int, float, float]:
    """Rounds, seconds of computing and of sending for a layer and degree, on each rank."""
    rounds, own = rounds_of(images, cluster), images / cluster.ranks
    query = own / rounds
    one_pair = 2.0 * PATCHES**2 * CHANNELS
    # A pair within a round is searched once, a pair across rounds from both sides.
    pairs = own * (images / rounds / 2 + images * (1 - 1 / rounds))
    across = (cluster.ranks - 1) * 4 * query * PATCHES * CHANNELS
    sent = rounds * (
        ring_bytes(round(query), cluster.ranks, PATCHES, CHANNELS) + (rounds - 1) * across
    )
    return rounds, pairs * one_pair / cluster.flops, sent / cluster.link


def main() -> None:
    """Print the table."""
    make_parser(__doc__).parse_args()
    table = Table(title=f"A layer and degree, P = {PATCHES}, C = {CHANNELS} (model, not measured)")
    for heading in ("cluster", "images", "rounds", "computing", "sending", "sending/computing"):
        table.add_column(heading, justify="right")
    for cluster in CLUSTERS:
        for images in (1000, 10_000, 100_000):
            rounds, computing, sending = seconds(images, cluster)
            table.add_row(
                cluster.name,
                f"{images}",
                str(rounds),
                f"{computing:.3g} s",
                f"{sending:.3g} s",
                f"{sending / computing:.1%}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
