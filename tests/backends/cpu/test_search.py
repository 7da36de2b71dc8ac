"""The certified search against fp64, and its independence of everything that is only speed."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import torch
from torch import Tensor

from musc_fast import _C
from musc_fast.backends.cpu import operators as native
from musc_fast.backends.cpu.options import Outputs, SearchSettings, SearchStatistics
from musc_fast.backends.cpu.search import run_search
from musc_fast.backends.cpu.space import rotate
from musc_fast.settings import SearchOptions

EXACT = 1e-5


def means(z: Tensor, k_min: int, k_max: int, references: Tensor | None = None, **how) -> Tensor:
    out = torch.full(z.shape[:2], torch.nan)
    run_search(z, references, k_min, k_max, Outputs(means=out), SearchSettings(**how))
    return out


def close(found: Tensor, truth: Tensor) -> bool:
    """Within 1e-5 everywhere, +inf at the same places; NaN nowhere."""
    same = found.double() == truth
    return bool((same | ((found.double() - truth).abs() <= EXACT)).all())


@pytest.mark.parametrize("channels", [40, 384, 768, 1024])
@pytest.mark.parametrize("patches", [1, 37, 150])
@pytest.mark.parametrize("images", [2, 5, 9])
def test_all_distances_and_means(images: int, patches: int, channels: int) -> None:
    z = cases.features(images, patches, channels)
    truth = cases.distances(z)
    assert close(native.patch_to_image(z), truth)
    for k_min, k_max in {(0, 1), (0, max(1, images // 3)), (images // 2, images - 1)}:
        if k_min < k_max:
            assert close(
                native.msm(z, None, k_min, k_max), cases.interval_mean(truth, k_min, k_max)
            )


@pytest.mark.parametrize("name", cases.ADVERSARIAL)
@pytest.mark.parametrize("channels", [40, 384])
def test_adversarial(name: str, channels: int) -> None:
    z = cases.ADVERSARIAL[name](4, 150, channels)
    truth = cases.distances(z)
    plain = native.patch_to_image(z)
    assert close(plain, truth)
    score = native.msm(z, None, 0, 2)
    assert close(score, cases.interval_mean(truth, 0, 2))
    # The certificate holds in any space, also in one that suits the data badly.
    for prefix in (16, 31, channels):
        assert torch.equal(means(z, 0, 2, prefix=prefix), score)
        out = torch.empty_like(plain)
        run_search(z, None, 0, 3, Outputs(distances=out), SearchSettings(prefix=prefix))
        assert torch.equal(out, plain)


@pytest.mark.parametrize("isa", _C.instruction_sets())
@pytest.mark.parametrize("segment", [16, 48])
def test_rows_that_int8_clips(isa: str, segment: int) -> None:
    """Rows which the rotation turns into one channel are clipped to one level, near everything.

    Such rows and near twins of them stand in some images. The other rows' step stays what it was.
    """
    z = cases.isotropic(7, 300, 384)
    before, report = SearchStatistics(), SearchStatistics()
    means(z, 0, 1, isa=isa, segment=segment, prefix=384, statistics=before)
    spikes = rotate(torch.eye(384)).T[:40]
    generator = torch.Generator().manual_seed(9)
    for image in range(0, 7, 2):
        rows = torch.arange(image, 300, 37)
        noise = torch.randn(len(rows), 384, generator=generator)
        z[image, rows] = spikes[: len(rows)] + 1e-3 * noise
    z = torch.nn.functional.normalize(z, dim=2)
    truth = cases.distances(z)
    for k_max in (1, 2, 6):
        found = means(z, 0, k_max, isa=isa, segment=segment, prefix=384, statistics=report)
        assert close(found, cases.interval_mean(truth, 0, k_max))
    assert report.scale < 1.2 * before.scale


def test_images_whose_best_score_misleads_are_scanned_whole() -> None:
    """Most rows lie in the space of the search. A few do not, and there it sees one norm for all:
    the row of best score is one of another direction, the twin scores far worse."""
    generator = torch.Generator().manual_seed(6)
    z = torch.zeros(5, 320, 384)
    z[..., :15] = torch.randn(5, 320, 15, generator=generator)
    odd = torch.arange(3, 320, 20)
    directions = torch.nn.functional.normalize(
        torch.randn(len(odd), 384 - 15, generator=generator), dim=1
    )
    z[:, odd, 15:] = 3 * directions
    z[:, odd, :15] *= 0.3
    truth = cases.interval_mean(cases.distances(z), 0, 4)
    for segment in (16, 48):
        assert close(means(z, 0, 4, prefix=15, segment=segment), truth)


def test_more_references_than_16_bits_count() -> None:
    generator = torch.Generator().manual_seed(5)
    z, references = (
        torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=2)
        for shape in ((1, 3, 8), (65540, 2, 8))
    )
    distances = (z[0][:, None, None].double() - references.double()).norm(dim=3).amin(2)
    truth = distances.sort(dim=1).values[:, :70].mean(1)
    assert close(native.msm(z, references, 0, 70)[0], truth)


def test_grid_of_37_by_37() -> None:
    z = cases.features(3, 1369, 384)
    assert close(native.msm(z, None, 0, 2), cases.interval_mean(cases.distances(z), 0, 2))


@pytest.mark.parametrize(("images", "references"), [(1, 1), (1, 5), (3, 2)])
def test_references(images: int, references: int) -> None:
    z = cases.features(images, 37, 384, seed=1)
    others = cases.features(references, 60, 384, seed=2)
    others[0, :7] = z[0, :7]
    truth = cases.distances(z, others)
    found = native.patch_to_image(z, others)
    assert close(found, truth)
    assert bool((found[0, :7, 0] == 0).all())
    assert close(native.msm(z, others, 0, references), cases.interval_mean(truth, 0, references))


@pytest.mark.parametrize("isa", _C.instruction_sets())
@pytest.mark.parametrize("prefix", [31, 63, 384])
def test_instruction_sets_agree_to_the_bit(isa: str, prefix: int) -> None:
    z = cases.features(4, 150, 384)
    z[2] = z[1]
    expected = native.msm(z, None, 1, 3)
    for segment in (16, 48):
        found = means(z, 1, 3, isa=isa, prefix=prefix, segment=segment)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("patches", [1, 17, 48, 133])
@pytest.mark.parametrize("segment", [16, 48, 192])
def test_segments_of_every_width_against_references(patches: int, segment: int) -> None:
    """One side of a pair alone is kept here, and the last block of panels is narrow."""
    z, others = cases.features(3, 37, 72, seed=1), cases.features(4, patches, 72, seed=2)
    truth = cases.interval_mean(cases.distances(z, others), 0, 2)
    assert close(means(z, 0, 2, others, segment=segment, prefix=72), truth)


@pytest.mark.usefixtures("threads")
def test_threads_chunks_and_segments_agree_to_the_bit() -> None:
    z = cases.features(7, 200, 384)
    expected = native.msm(z, None, 0, 3)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for chunk in (1, 3, 7):
            for segment in (16, 48, 384):
                found = means(z, 0, 3, chunk=chunk, segment=segment, prefix=63)
                assert torch.equal(found, expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("patches", [70, 1500])
@pytest.mark.parametrize("prefix", [31, 96])
def test_query_images_together(patches: int, prefix: int) -> None:
    """Several at a time go through the references, some rows of each."""
    torch.set_num_threads(1)
    z = cases.features(17 if patches < 1000 else 9, patches, 96)
    truth = cases.distances(z)
    assert close(means(z, 0, 4, prefix=prefix), cases.interval_mean(truth, 0, 4))
    # Against lists of their own, the same column is another image for each.
    lists = torch.stack([torch.randperm(len(z) - 1)[:6].sort().values for _ in z])
    lists += lists >= torch.arange(len(z))[:, None]
    out = torch.empty(z.shape[:2])
    how = SearchSettings(prefix=prefix)
    run_search(z, None, 0, 2, Outputs(means=out), how, lists)
    listed = truth.gather(2, lists[:, None].expand(-1, patches, -1))
    assert close(out, cases.interval_mean(listed, 0, 2))
    more = means(z, 0, 4, prefix=prefix, certified=False) - means(z, 0, 4)
    assert float(more.min()) >= -1e-6, "fast never finds what is nearer than the nearest"
    assert float(more.mean()) < 0.01


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("prefix", [31, 96])
def test_as_many_rows_at_a_time_as_there_may_be(prefix: int) -> None:
    """Four images of 1408 patches in segments of a panel fill kMostRows of csrc/cpu/examine.hpp."""
    torch.set_num_threads(1)
    z = cases.features(5, 1408, 96)
    found = means(z, 0, 2, prefix=prefix, segment=16)
    assert torch.equal(found, means(z, 0, 2, prefix=prefix, segment=192))
    assert close(found[4], cases.interval_mean(cases.distances(z[4:], z[:4]), 0, 2)[0])


@pytest.mark.parametrize("isa", _C.instruction_sets())
@pytest.mark.parametrize("channels", [1, 31, 33, 40, 72])
def test_squares_are_summed_in_one_order(isa: str, channels: int) -> None:
    """32 partial sums in float32, then a tree, whatever the instruction set."""
    z = torch.randn(2, 1, channels, generator=torch.Generator().manual_seed(channels))
    difference = np.zeros(-(-channels // 32) * 32, dtype=np.float32)
    difference[:channels] = (z[0, 0] - z[1, 0]).numpy()
    sums = np.zeros(32, dtype=np.float32)
    for step in (difference * difference).reshape(-1, 32):
        sums = sums + step
    for half in (16, 8, 4, 2, 1):
        sums = sums[:half] + sums[half:]
    found = torch.empty(2, 1, 2)
    run_search(z, None, 0, 1, Outputs(distances=found), SearchSettings(isa=isa))
    assert float(found[0, 0, 1]) == float(np.sqrt(sums[0]))


@pytest.mark.parametrize("size", [1e-22, 1e-12, 1e12, 1e18])
@pytest.mark.parametrize("prefix", [31, 96])
def test_sizes(size: float, prefix: int) -> None:
    """Features of any size, as long as their squares are float32: relative to that size, exact."""
    z = cases.features(6, 90, 96) * size
    truth = cases.interval_mean(cases.distances(z), 0, 2)
    found = means(z, 0, 2, prefix=prefix)
    room = 1e-5 * size if size > 1e-20 else 1e-20  # squares below 1e-38 lose digits
    assert float((found - truth).abs().max()) <= room


@pytest.mark.parametrize("size", [1e19, 1e20])
def test_distances_beyond_float32_are_infinite(size: float) -> None:
    """Nothing is near then, but nothing breaks."""
    z = cases.features(6, 90, 64).sign() * size
    assert bool(torch.isinf(means(z, 0, 2)).all())


def test_neighbours() -> None:
    z = cases.features(6, 100, 384)
    z[3] = z[2]  # ties between images
    z[4, 50:] = z[4, :50]  # and between patches of an image
    truth = cases.distances(z)
    found, image, patch = native.nearest_images(z, None, 4)
    assert close(found, truth.sort(dim=-1).values[..., :4])
    own = torch.arange(6).view(6, 1, 1)
    assert bool((image != own).all())
    recomputed = (z[own, torch.arange(100).view(1, -1, 1)] - z[image, patch]).double().norm(dim=-1)
    assert close(found, recomputed)
    assert bool((image[0][found[0].diff(dim=-1).argmin(-1)] >= 0).all())
    # Of equally near ones the first counts, so indices too depend on nothing else.
    tied = found[..., 1:] == found[..., :-1]
    assert bool((image[..., 1:] > image[..., :-1])[tied].all())
    assert bool((patch[image == 4] < 50).all())


def test_equal_to_the_minimum_of_float32_distances() -> None:
    """Nothing that was left out is nearer in fp32, for k_max images of many."""
    z = cases.features(9, 130, 384)
    every = native.patch_to_image(z)
    assert torch.equal(native.interval_mean(every, 0, 3), native.msm(z, None, 0, 3))
    assert torch.equal(native.nearest_images(z, None, 3)[0], every.sort(dim=-1).values[..., :3])


def test_single_image_has_no_distances() -> None:
    assert bool(native.patch_to_image(cases.features(1, 5, 40)).isinf().all())


def test_other_dtypes_and_layouts() -> None:
    z = cases.features(3, 37, 40)
    expected = native.msm(z, None, 0, 2)
    assert torch.equal(native.msm(z.double(), None, 0, 2), expected)
    assert torch.equal(native.msm(z.mT.contiguous().mT, None, 0, 2), expected)
    half = z.half()
    assert close(
        native.msm(half, None, 0, 2), cases.interval_mean(cases.distances(half.float()), 0, 2)
    )


def test_fast_is_near() -> None:
    z = cases.features(8, 300, 384)
    exact, fast = native.msm(z, None, 0, 2), native.msm(z, None, 0, 2, SearchOptions("fast"))
    assert bool((fast >= exact - EXACT).all())  # it may only overlook
    assert float((fast - exact).abs().mean()) < 2e-3


def test_second_pass_examines_a_part() -> None:
    z = cases.features(16, 200, 384)
    report = SearchStatistics()
    means(z, 0, 4, statistics=report, prefix=63)
    assert report.rows == 16 * 200
    assert 4 * report.rows <= report.examined < 15 * report.rows
    assert report.recomputed < 200 * report.examined / 10


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    z = cases.features(5, 50, 40)
    native.msm(
        z, None, 0, 2, SearchOptions(on_progress=lambda done, total: seen.append((done, total)))
    )
    assert seen[-1] == (100, 100)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_wrong_arguments_are_refused() -> None:
    z = cases.features(3, 10, 40)
    with pytest.raises(ValueError, match="k_max"):
        native.msm(z, None, 0, 3)
    with pytest.raises(ValueError, match="instruction set"):
        means(z, 0, 2, isa="vax")
    with pytest.raises(ValueError, match="segment"):
        means(z, 0, 2, segment=50)
