#!/usr/bin/env bash
# torch 2.14.1: `interpolate(mode="bicubic", antialias=True)` is another interpolation than without
# antialias even where a picture is enlarged and there is nothing to anti-alias. The cubic kernel
# has the parameter -0.5 (Pillow's) with it, and -0.75 (OpenCV's) without. A point enlarged four
# times shows both: each line is its kernel to 1e-6. Bilinear has one kernel for both.
#
# Why it matters here: position embeddings of a vision transformer are resized so. DINOv2's own code
# has antialias=False as its default, timm has True: the same weights give other tokens at every
# size but the one they were trained at, larger ones too, and no two figures agree to the last digit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "torch==2.14.1" "numpy==2.2.6"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import sys

import numpy as np
import torch
from torch.nn.functional import interpolate

SIDE, TIMES = 15, 4


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The kernel of R. Keys (1981) with the parameter a."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


point = torch.zeros(1, 1, SIDE, SIDE)
point[..., SIDE // 2, :] = 1  # a line, of which a column is a point
distance = (np.arange(SIDE * TIMES) + 0.5) / TIMES - 0.5 - SIDE // 2
found = {}
for antialias in (False, True):
    large = interpolate(point, scale_factor=TIMES, mode="bicubic", antialias=antialias)
    column = large[0, 0, :, SIDE * TIMES // 2].numpy()
    off = {a: float(np.abs(column - cubic(distance, a)).max()) for a in (-0.5, -0.75)}
    found[antialias] = min(off, key=off.get)
    print(f"torch {torch.__version__}, bicubic, antialias={antialias}: off by {off}")
    assert off[found[antialias]] < 1e-6
linear = [
    interpolate(point, scale_factor=TIMES, mode="bilinear", antialias=x) for x in (False, True)
]
print(f"bilinear: both ways differ by {float((linear[0] - linear[1]).abs().max()):.1e}")
same = torch.allclose(linear[0], linear[1], atol=1e-6)
sys.exit(found != {False: -0.75, True: -0.5} or not same)
PY
