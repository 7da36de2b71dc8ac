"""Large pictures in little memory, and sizes that no memory holds."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY, tiny_weights

from musc_fast import InputError, MuSc, score_batch
from musc_fast.report import heatmap
from musc_fast.report.cards import make_cards
from musc_fast.report.heatmap import Scale, colour_table, coloured, grey_map, heat_map

# A bilinear picture in stripes may differ by the rounding of a position.
MAP = np.random.default_rng(0).random((37, 53), dtype=np.float32)


@pytest.mark.parametrize("size", [(37, 53), (200, 300), (1000, 701), (20, 30), (1, 1)])
@pytest.mark.parametrize("stripe", [1, 999, 5000])
def test_stripes_give_the_same_picture(
    size: tuple[int, int], stripe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.asarray(grey_map(MAP, Scale(0, 1), size), dtype=int)
    monkeypatch.setattr(heatmap, "_STRIPE", stripe)
    striped = np.asarray(grey_map(MAP, Scale(0, 1), size), dtype=int)
    assert np.abs(striped - whole).max() <= 1
    assert (striped != whole).mean() < 0.01


def test_the_palette_holds_the_same_colours() -> None:
    levels = grey_map(MAP, Scale(0, 1), (200, 300))
    assert np.array_equal(
        np.asarray(coloured(levels).convert("RGB")),
        np.asarray(heat_map(MAP, Scale(0, 1), (200, 300))),
    )
    assert np.array_equal(np.asarray(coloured(levels)), np.asarray(levels))
    assert coloured(levels).getpalette() == colour_table().reshape(-1).tolist()


def test_large_images_are_decoded_one_after_another() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def make(index: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.05)
        with lock:
            inside -= 1
        return index

    large = make_cards(make, 4, lambda done, total: None, [50_000_000] * 4)  # type: ignore[arg-type]
    assert large == [0, 1, 2, 3]
    assert most == 1
    assert make_cards(make, 2, lambda *_: None, [10, 10]) == [0, 1]  # type: ignore[arg-type]


WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from musc_fast.report.results import write_results
from musc_fast.report.scored_batch import ScoredBatch
from musc_fast.threshold import find_threshold
folder = Path(sys.argv[1])
paths = [folder / f"{k}.png" for k in range(3)]
maps = np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)
raw = maps.max((1, 2))
batch = ScoredBatch(paths, raw, raw, maps, {"seconds": {}}, find_threshold(raw))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(folder / "out").mkdir()
write_results(folder / "out", batch)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_pictures_of_large_images_need_few_bytes_a_pixel(tmp_path: Path) -> None:
    for k in range(3):
        Image.new("RGB", (6000, 4000), (k, 99, 9)).save(tmp_path / f"{k}.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    more = int(done.stdout) << 10
    assert more < 13 * 24_000_000 + (100 << 20), f"{more / 24e6:.1f} bytes a pixel"


def test_sizes_beyond_memory_are_refused_before_the_work(tmp_path: Path) -> None:
    z = torch.zeros(2, 16, 4)
    with pytest.raises(InputError, match=r"image_size 1000000 x 1000000: .* GiB of memory"):
        score_batch(z, image_size=1_000_000)
    weights = tiny_weights(tmp_path)
    with pytest.raises(InputError, match=r"image_size 16 x 32000000000: .* GiB of memory"):
        MuSc(TINY, weights=weights, image_size=(16, 32_000_000_000))
