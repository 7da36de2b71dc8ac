#!/usr/bin/env bash
# Pillow 13.0.0 opens an uncompressed 16-bit RGB TIFF whose channels lie in planes of their own
# (PlanarConfiguration 2) without a complaint, and returns another picture: every byte of a plane
# is taken for a pixel, so a row shows its first half at twice the width, and the rest goes
# elsewhere. The same file compressed, or with the channels of a pixel side by side, is read
# rightly, to eight bits.
#
# Why it matters here: line-scan and multispectral cameras write such files. Every picture of a batch
# is garbled alike, so a detector that compares them still gives scores, and nothing looks broken
# until somebody opens one. musc_fast reads 16-bit colour with tifffile.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pillow==13.0.0" "tifffile==2026.3.3" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

levels = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint16)
picture = levels * 257  # both bytes of a value are the level, so that eight bits lose nothing
kinds = {
    "side by side": {"planarconfig": "contig"},
    "planes": {"planarconfig": "separate"},
    "planes, deflate": {"planarconfig": "separate", "compression": "zlib"},
}
right = {}
for name, options in kinds.items():
    stored = picture if name == "side by side" else picture.transpose(2, 0, 1)
    tifffile.imwrite("picture.tif", stored, photometric="rgb", **options)
    assert np.array_equal(tifffile.imread("picture.tif"), stored)
    read = np.asarray(Image.open("picture.tif"))
    right[name] = bool(np.array_equal(read, levels))
    if not right[name]:
        doubled = np.array_equal(read[0, ::2], levels[0, :4]) and np.array_equal(
            read[0, 1::2], levels[0, :4]
        )
        print(f"{name}: the first row is the first half of itself, each pixel twice: {doubled}")
print(f"Pillow {PIL.__version__}, 16-bit RGB TIFF, read rightly: {right}")
sys.exit(right != {"side by side": True, "planes": False, "planes, deflate": True})
PY
