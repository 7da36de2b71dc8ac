"""Matching near the own place: every backend against the plain truth, and whole runs with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor

from musc_fast import _C, ReferenceBank, ops, reference, score_batch
from musc_fast.backends.cpu.local import LocalSearch
from musc_fast.backends.cpu.operators import interval_mean
from musc_fast.backends.cpu.options import Outputs
from musc_fast.errors import BankError, InputError, MuscFastWarning
from musc_fast.scoring.leave_one_out import leave_one_out
from musc_fast.settings import ScoringSettings, SearchOptions, Window

BACKENDS = ("cpu", "torch", "reference")


def rows(n: int, grid: tuple[int, int], c: int, seed: int = 0) -> Tensor:
    """Normalised rows with a hot channel, a duplicate image and a near-duplicate."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, grid[0] * grid[1], c, generator=generator)
    z[..., c // 3] *= 20
    if n > 2:
        z[1] = z[0]
        z[2] = z[0] + 1e-5 * z[2]
    return torch.nn.functional.normalize(z, dim=2)


def plain(z: Tensor, grid: tuple[int, int], reach: int, references: Tensor | None = None) -> Tensor:
    """The distances in fp64, place by place: nothing of the product's own code."""
    others = z if references is None else references
    found = torch.full((len(z), z.shape[1], len(others)), math.inf, dtype=torch.float64)
    for p in range(z.shape[1]):
        near = [
            q
            for q in range(z.shape[1])
            if max(abs(p // grid[1] - q // grid[1]), abs(p % grid[1] - q % grid[1])) <= reach
        ]
        apart = z[:, p].double()[:, None, None] - others[:, near].double()[None]
        found[:, p] = apart.square().sum(3).sqrt().amin(2)
    if references is None:
        found[torch.arange(len(z)), :, torch.arange(len(z))] = math.inf
    return found


def error(found: Tensor, wanted: Tensor) -> float:
    assert torch.equal(torch.isinf(found), torch.isinf(wanted))
    return float((found - wanted).nan_to_num(0, 0, 0).abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("n", "grid", "c", "reach"),
    [(2, (1, 1), 8, 3), (2, (3, 4), 24, 1), (6, (5, 3), 200, 2), (5, (2, 3), 40, 0)],
)
def test_distances(backend: str, n: int, grid: tuple[int, int], c: int, reach: int) -> None:
    z, window = rows(n, grid, c), Window(grid, reach)
    truth = plain(z, grid, reach)
    assert error(ops.patch_to_image(z, backend=backend, window=window), truth) < 1e-5
    found = ops.msm(z, backend=backend, window=window, topmin=(0, 0.5))
    bounds = reference.interval((0, 0.5), n - 1)
    assert error(found, reference.interval_mean(truth, *bounds)) < 1e-5
    others = rows(4, grid, c, seed=1)
    others[3] = z[0]
    there, back = ops.between(z, others, backend=backend, window=window)
    assert error(there, plain(z, grid, reach, others)) < 1e-5
    assert error(back, plain(others, grid, reach, z)) < 1e-5
    assert not there[0, :, 3].any()


def test_a_window_over_the_whole_grid_is_the_whole_search() -> None:
    z = rows(6, (3, 4), 24)
    for backend in BACKENDS:
        found = ops.patch_to_image(z, backend=backend, window=Window((3, 4), 99))
        assert error(found, ops.patch_to_image(z, backend=backend)) < 1e-6


@given(
    n=strategies.integers(2, 20),
    height=strategies.integers(1, 4),
    width=strategies.integers(1, 4),
    channels=strategies.sampled_from([1, 7, 33, 200]),
    reach=strategies.integers(0, 4),
    seed=strategies.integers(0, 9),
)
@settings(max_examples=12, deadline=None)
def test_bands_sets_and_ways_give_the_same_bits(
    n: int, height: int, width: int, channels: int, reach: int, seed: int
) -> None:
    grid = (height, width)
    z, others = rows(n, grid, channels, seed), rows(3, grid, channels, seed + 1)
    options = SearchOptions(window=Window(grid, reach))
    direct = [ops.patch_to_image(each[None], others, window=options.window) for each in z]
    sets = sorted(_C.instruction_sets())
    for band, isa in zip((1, 2, *[height] * len(sets)), (sets[0], sets[-1], *sets), strict=False):
        search = LocalSearch(z, others, options, rows=band, isa=isa)
        found = torch.full((n, height * width, 3), math.nan)
        search.run(0, n, 0, 3, Outputs(distances=found))
        assert torch.equal(found, torch.cat(direct))


def test_more_queries_than_one_product_takes() -> None:
    z, others = rows(150, (2, 3), 24), rows(5, (2, 3), 24, seed=1)
    options = SearchOptions(window=Window((2, 3), 1))
    direct = [ops.patch_to_image(each[None], others, window=options.window) for each in z]
    for isa in _C.instruction_sets():
        search = LocalSearch(z, others, options, isa=isa)
        found = torch.full((139, 6, 5), math.nan)
        search.run(11, 150, 0, 5, Outputs(distances=found))
        assert torch.equal(found, torch.cat(direct[11:]))


@pytest.mark.parametrize("isa", _C.instruction_sets())
def test_long_rows_meet_a_window_in_several_calls(isa: str) -> None:
    """The kernel takes as many places at a time as fit a cache: here 16 of 25."""
    grid = (5, 5)
    z, options = rows(18, grid, 1030), SearchOptions(window=Window(grid, 2))
    for others in (None, rows(7, grid, 1030, seed=1)):
        truth = reference.interval_mean(plain(z, grid, 2, others), 0, 5)
        found = torch.full((18, 25), math.nan)
        LocalSearch(z, others, options, rows=5, isa=isa).run(0, 18, 0, 5, Outputs(means=found))
        assert error(found, truth) < 1e-5


def ties(n: int, grid: tuple[int, int], c: int, seed: int) -> Tensor:
    """Rows that are few different ones, off by less or more than they are rounded by."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.nn.functional.normalize(torch.randn(3, c, generator=generator), dim=1)
    drawn = torch.randint(0, 3, (n, grid[0] * grid[1]), generator=generator)
    off = torch.randn(n, grid[0] * grid[1], c, generator=generator)
    return base[drawn] + torch.tensor([0.0, 1e-5, 1e-3])[drawn, None] * off


@given(
    n=strategies.sampled_from([2, 3, 5, 9, 17, 19, 34]),
    height=strategies.integers(1, 9),
    width=strategies.integers(1, 9),
    channels=strategies.sampled_from([1, 7, 33, 130]),
    reach=strategies.integers(0, 9),
    threads=strategies.integers(1, 5),
    isa=strategies.sampled_from(sorted(_C.instruction_sets())),
    band=strategies.sampled_from([None, 1, 3]),
    tied=strategies.booleans(),
    seed=strategies.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_a_batch_in_itself_has_the_bits_of_its_images_one_by_one(
    n: int,
    height: int,
    width: int,
    channels: int,
    reach: int,
    threads: int,
    isa: str,
    band: int | None,
    tied: bool,
    seed: int,
) -> None:
    """A product serves both of its places, in parts of the grid that depend on the threads."""
    grid, places = (height, width), height * width
    z = (ties if tied else rows)(n, grid, channels, seed)
    options = SearchOptions(window=Window(grid, reach))
    direct = LocalSearch(z, z, options)  # one by one
    wanted = torch.empty(n, places, n)
    for i in range(n):
        direct.run(i, i + 1, 0, n, Outputs(distances=wanted[i : i + 1]))
    wanted[torch.arange(n), :, torch.arange(n)] = math.inf
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        search = LocalSearch(z, None, options, rows=band or height, isa=isa)
        found, part = torch.full_like(wanted, math.nan), torch.full_like(wanted[1:], math.nan)
        search.run(0, n, 0, n - 1, Outputs(distances=found))
        search.run(1, n, 0, n - 1, Outputs(distances=part))  # a product serves one place
        means, k_max = torch.full((n, places), math.nan), max(1, (n - 1) // 3)
        search.run(0, n, 0, k_max, Outputs(means=means))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, wanted)
    assert torch.equal(part, wanted[1:])
    assert torch.equal(means, interval_mean(wanted, 0, k_max))


def test_rows_longer_than_the_sample_tells() -> None:
    """The sample that decides how rows are rounded misses the longest one."""
    z = rows(40, (6, 5), 24)
    z[13, 7] *= 50
    window = Window((6, 5), 1)
    truth = plain(z, (6, 5), 1)
    found = ops.patch_to_image(z, backend="cpu", window=window)
    off = (found - truth).abs() / truth.clamp_min(1)
    assert off.nan_to_num(0).max() < 1e-6
    tiny = ops.patch_to_image(z * 1e-20, backend="cpu", window=window)
    one_by_one = [ops.patch_to_image(q[None] * 1e-20, z * 1e-20, window=window) for q in z]
    other = ~torch.eye(40, dtype=torch.bool)[:, None].expand_as(tiny)
    assert torch.equal(tiny[other], torch.cat(one_by_one)[other])
    assert torch.isinf(tiny[~other]).all()


def test_many_references() -> None:
    z, others = rows(3, (1, 2), 16), rows(1600, (1, 2), 16, seed=1)
    window = Window((1, 2), 1)
    truth = plain(z, (1, 2), 1, others)
    assert error(ops.patch_to_image(z, others, window=window), truth) < 1e-5
    wanted = reference.interval_mean(truth, 0, 480)
    assert error(ops.msm(z, others, window=window), wanted) < 1e-5


def test_only_what_the_bound_leaves_is_computed() -> None:
    """The certificate excludes most of the 9 x 19 candidates of a patch."""
    base = rows(1, (4, 4), 256)
    generator = torch.Generator().manual_seed(3)
    z = torch.nn.functional.normalize(
        base + 0.02 * torch.randn(20, 16, 256, generator=generator), dim=2
    )
    search = LocalSearch(z, None, SearchOptions(window=Window((4, 4), 1)))
    means = torch.empty(20, 16)
    search.run(0, 20, 0, 5, Outputs(means=means))
    assert search.computed < 20 * 16 * 25
    assert error(means, reference.interval_mean(plain(z, (4, 4), 1), 0, 5)) < 1e-5


def test_memory_limit() -> None:
    z, window = rows(9, (4, 3), 200), Window((4, 3), 1)
    wanted = ops.msm(z, window=window)
    for backend, limit in (("cpu", 3 << 17), ("torch", 200_000)):
        found = ops.msm(z, backend=backend, window=window, memory_limit=limit)
        assert (found - wanted).abs().max() < 1e-6
        with pytest.raises(InputError, match="memory_limit: this search needs at least"):
            ops.msm(z, backend=backend, window=window, memory_limit=1000)


def test_wrong_windows_are_refused() -> None:
    z = rows(3, (2, 3), 8)
    with pytest.raises(InputError, match="grid 2 x 2 has 4 patches, z 6"):
        ops.msm(z, window=Window((2, 2), 1))
    with pytest.raises(InputError, match="6 patches, the references 4; matching near the own"):
        ops.patch_to_image(z, rows(3, (2, 2), 8), window=Window((2, 3), 1))
    with pytest.raises(InputError, match="window: found 2, wanted a Window"):
        ops.msm(z, window=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="window: found -1"):
        Window((2, 3), -1)
    with pytest.raises(InputError, match="window: found the grid"):
        Window((2, 0), 1)


def scored(layers: list[Tensor], **keywords: Any) -> Tensor:
    return score_batch(layers, grid=(3, 4), place=1, **keywords).patch_scores


@pytest.mark.parametrize("fusion", ["scores", "features"])
def test_all_ways_to_score_agree(fusion: Any, tmp_path: Path) -> None:
    layers = [rows(8, (3, 4), 24, seed) for seed in (0, 1)]
    own = {"degree_fusion": fusion}
    truth = scored(layers, backend="reference", **own)
    wanted = scored(layers, **own)
    assert (wanted - truth).abs().max() < 1e-5
    for backend in ("torch", "cpu"):
        assert (scored(layers, backend=backend, **own) - wanted).abs().max() < 1e-6
    for _ in range(2):  # the second takes what the first has stored
        assert torch.equal(scored(layers, checkpoint=tmp_path, **own), wanted)
    with pytest.raises(InputError, match="belongs to a run with other tokens or settings"):
        score_batch(layers, grid=(3, 4), checkpoint=tmp_path, **own)
    others = [rows(5, (3, 4), 24, seed) for seed in (2, 3)]
    bank = ReferenceBank(8, grid=(3, 4), place=1, **own)
    bank.add(others)
    found = bank.score(layers)
    assert found.place == 1
    assert torch.equal(found.patch_scores, scored(layers, references=others, **own))
    bank.save(tmp_path / "bank")
    assert ReferenceBank.load(tmp_path / "bank").scoring.place == 1
    alone = leave_one_out(others, ScoringSettings(place=1, **own), grid=(3, 4))
    assert torch.equal(bank.leave_one_out().patch_scores, alone.patch_scores)


def test_few_references_drawn_by_content() -> None:
    layers = [rows(30, (3, 4), 24)]
    for count in (2, 12):  # one by one, and by the bound
        found = scored(layers, max_references=count)
        wanted = scored(layers, max_references=count, backend="reference")
        assert (found - wanted).abs().max() < 1e-5


def still(n: int, shift: bool) -> list[Tensor]:
    """Images of one scene with distinct places, which rolls from image to image or lies still."""
    generator = torch.Generator().manual_seed(5)
    scene = torch.randn(12, 12, 16, generator=generator)
    noise = 0.1 * torch.randn(n, 12, 12, 16, generator=generator)
    step = 5 if shift else 0
    images = [scene.roll((step * i, step * i), (0, 1)) + noise[i] for i in range(n)]
    return [torch.stack(images).view(n, 144, 16)]


def test_auto_takes_a_window_where_parts_lie_still() -> None:
    layers = still(14, shift=False)
    with pytest.warns(MuscFastWarning, match="place auto: compared with patches at most 1 from"):
        found = score_batch(layers, place="auto")
    assert found.place == 1
    assert torch.equal(found.patch_scores, score_batch(layers, place=1).patch_scores)


def test_auto_searches_whole_images_where_parts_move() -> None:
    layers = still(14, shift=True)
    with pytest.warns(MuscFastWarning, match="place auto: compared with whole images, .* move"):
        found = score_batch(layers, place="auto")
    assert found.place is None
    assert torch.equal(found.patch_scores, score_batch(layers).patch_scores)
    # Good references decide for what is scored against them.
    with pytest.warns(MuscFastWarning, match="at most 1"):
        assert score_batch(layers, references=still(5, shift=False), place="auto").place == 1
    one = [layer[:1] for layer in layers]
    with pytest.warns(MuscFastWarning, match="one image cannot tell"):
        lone = score_batch(one, references=one, place="auto")
    assert lone.place is None


def test_auto_on_a_grid_without_distance() -> None:
    with pytest.warns(MuscFastWarning, match="a grid of 2 x 2 patches has none that lie far apart"):
        assert score_batch([rows(3, (2, 2), 8)], place="auto").place is None


def test_a_bank_wants_a_window_of_its_own() -> None:
    with pytest.raises(InputError, match='place: found "auto", but a bank keeps one window'):
        ReferenceBank(4, place="auto")


def test_a_bank_of_another_window_is_refused(tmp_path: Path) -> None:
    bank = ReferenceBank(4, grid=(3, 4), place=1, source={"place": 1})
    bank.add([rows(3, (3, 4), 8)])
    bank.save(tmp_path / "bank")
    with pytest.raises(BankError, match="place: the bank has 1, now None"):
        ReferenceBank.load(tmp_path / "bank", source={})


def some_left_out(images: int, patches: int) -> Tensor:
    """All patches count but the first of the last image."""
    valid = torch.ones(images, patches, dtype=torch.bool)
    valid[-1, 0] = False
    return valid


def test_patches_that_do_not_count_want_whole_images() -> None:
    """A patch that does not count holds another's vector, which a window may cut off from it."""
    layers, refused = still(14, shift=False), "place: with ignored areas or aligned pictures"
    valid = some_left_out(14, 144)
    with pytest.raises(InputError, match=refused):
        score_batch(layers, valid=valid, place=1)
    with pytest.raises(InputError, match=refused):
        score_batch(layers, references=layers, reference_valid=valid, place=1)
    assert score_batch(layers, valid=torch.ones_like(valid), place=1).place == 1
    with pytest.warns(MuscFastWarning, match="place auto: compared with whole images, for ignored"):
        found = score_batch(layers, valid=valid, place="auto")
    assert found.place is None
    assert torch.equal(found.patch_scores, score_batch(layers, valid=valid).patch_scores)
    bank = ReferenceBank(20, place=1)
    bank.add(layers)
    with pytest.raises(InputError, match=refused):
        bank.score(layers, valid=valid)
    with pytest.raises(InputError, match=refused):
        bank.add(layers, valid=valid)
    assert len(bank) == 14


def test_copies_and_repeats_are_left_out_within_a_window() -> None:
    """One defect on four images, and a copy of another image."""
    layers = still(14, shift=False)
    layers[0][3:7, 20:24] += 3
    layers[0][13] = layers[0][12]
    kept = {"place": 1, "copies": "auto", "repeats": "auto", "grid": (12, 12), "degrees": (1,)}
    found = score_batch(layers, **kept)
    assert [(copy.image, copy.of) for copy in found.copies] == [(13, 12)]
    assert [repeat.images for repeat in found.repeats] == [(3, 4, 5, 6)]
    scores = found.patch_scores.flatten(1)
    assert torch.equal(scores[13], scores[12])
    assert scores[3:7, 20:24].min() > 2 * scores[7:].max()
    truth = score_batch(layers, backend="reference", **kept)
    assert [each.patches for each in truth.repeats] == [each.patches for each in found.repeats]
    assert (truth.patch_scores - found.patch_scores).abs().max() < 1e-5
    some = score_batch(layers, **{**kept, "memory_limit": 1 << 20})
    assert (some.patch_scores - found.patch_scores).abs().max() < 1e-6
    bank = ReferenceBank(20, place=1, copies="auto", grid=(12, 12), degrees=(1,))
    bank.add([layer[:13] for layer in layers])
    again = bank.score([layer[12:] for layer in layers])
    assert [copy.of for copy in again.copies] == [12, 12]
    wanted = score_batch([layers[0][12:13]], references=[layers[0][:12]], place=1, degrees=(1,))
    assert torch.equal(again.patch_scores[0], wanted.patch_scores[0])
