#!/usr/bin/env bash
# anomalib 2.7.0 (Pillow 13.0.0): a grey PNG of 16 bits, as 12-bit cameras and X-ray detectors write
# it, is read as a plain white picture, without a word. `read_image` converts the file to RGB by
# Pillow, which cuts every value above 255 to white instead of scaling. Every dataset of anomalib,
# its PredictDataset and its inferencers read by it: all parts then look alike, and no defect can be
# seen.
#
# Why it matters here: a model in anomalib, ours too, cannot see what the reader threw away.
# `musc-fast score` reads such files with one white level a batch.
#
#   PYTHON=python findings/anomalib_deep_images_white.sh   # takes an environment that has anomalib
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "anomalib==2.7.0" "pillow==13.0.0"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
from anomalib.data import PredictDataset
from PIL import Image

assert version("anomalib") == "2.7.0", version("anomalib")
ramp = np.linspace(300, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
ramp[20:30, 20:30] = 300  # a dark spot
Image.fromarray(ramp).save("part.png")
stored = np.asarray(Image.open("part.png"))
image = PredictDataset("part.png")[0].image
print(
    f"anomalib {version('anomalib')}, Pillow {version('pillow')}: the file holds values from "
    f"{stored.min()} to {stored.max()}, {len(np.unique(stored))} of them; the image read has "
    f"{len(image.unique())}: {float(image.min()):g}"
)
sys.exit(not (float(image.min()) == float(image.max()) == 1.0))
PY
