#!/usr/bin/env bash
# torchvision 0.29.1 with Pillow 13.0.0: `transforms.ToTensor()` of a 16-bit grey picture (mode
# "I;16") gives int16, so that every value from 32768 on comes out negative: white is -1, one step
# brighter than mid-grey is the darkest of all. It is not scaled to 0..1 either, as 8 bits are, and
# neither is said. `v2.ToImage()` with `v2.ToDtype(torch.float32, scale=True)` is right, and so is
# torchvision's own decode_image.
#
# Why it matters here: X-ray, thermal and depth pictures may have such files, and a pipeline for them
# often has ToTensor where it turns pictures into tensors. The brightest parts turn into the darkest with a
# sharp edge, a feature that no two pictures share, and detectors fire along it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "torchvision==0.29.1" "pillow==13.0.0" "numpy==2.2.6"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import sys

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.io import decode_image
from torchvision.transforms import ToTensor, v2

stored = np.array([[0, 1, 32767, 32768, 65535]], np.uint16)
Image.fromarray(stored).save("picture.png")
picture = Image.open("picture.png")
assert picture.mode == "I;16"
assert np.array_equal(np.asarray(picture), stored)
old = ToTensor()(picture)
new = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(picture)
decoded = decode_image("picture.png")
print(
    f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, stored {stored[0].tolist()}: "
    f"ToTensor {old.dtype} {old.flatten().tolist()}, v2 {new.flatten().tolist()}, decode_image "
    f"{decoded.dtype} {decoded.flatten().tolist()}"
)
right = torch.allclose(new.flatten(), torch.tensor(stored[0] / 65535, dtype=torch.float32))
right = right and decoded.flatten().tolist() == stored[0].tolist()
sys.exit(old.flatten().tolist() != [0, 1, 32767, -32768, -1] or not right)
PY
