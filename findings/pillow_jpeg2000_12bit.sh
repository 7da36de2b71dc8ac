#!/usr/bin/env bash
# Pillow 13.0.0 multiplies the values of a grey JPEG 2000 file of 10 or 12 bits by 64 or 16, up to
# the range of 16 bits; opencv-python-headless 5.0.0.93 and imagecodecs 2026.3.6 return what was
# stored. Of the same picture as a TIFF Pillow returns the stored values, too, so its own two
# formats differ by that factor. The mode is "I;16" each time, and nothing tells which it was.
#
# Why it matters here: cameras of 12 bits are stored both ways. A batch of which some pictures were
# archived as JPEG 2000 has pictures sixteen times as bright as the others, and a detector that
# divides by one white level finds all of them odd. musc_fast reads such files with one reader, and
# takes white from the header of the format.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pillow==13.0.0" "opencv-python-headless==5.0.0.93" \
  "imagecodecs==2026.3.6" "tifffile==2026.3.3" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import PIL
import tifffile
from PIL import Image

found = {}
for bits in (10, 12, 16):
    picture = np.random.default_rng(0).integers(1, 2**bits, (32, 40)).astype(np.uint16)
    coded = imagecodecs.jpeg2k_encode(picture, bitspersample=bits, codecformat="jp2", reversible=True)
    Path("picture.jp2").write_bytes(coded)
    tifffile.imwrite("picture.tif", picture)
    opened = {name: Image.open(f"picture.{name}") for name in ("jp2", "tif")}
    assert {image.mode for image in opened.values()} == {"I;16"}
    read = {
        f"Pillow {PIL.__version__}, JPEG 2000": np.asarray(opened["jp2"]),
        f"Pillow {PIL.__version__}, TIFF": np.asarray(opened["tif"]),
        f"OpenCV {cv2.__version__}": cv2.imread("picture.jp2", cv2.IMREAD_UNCHANGED),
        f"imagecodecs {imagecodecs.__version__}": imagecodecs.jpeg2k_decode(coded),
    }
    for name, values in read.items():
        times = int(values[0, 0]) // int(picture[0, 0])
        assert np.array_equal(values, picture * np.uint16(times)), name
        found.setdefault(name, {})[bits] = times
for name, times in found.items():
    print(f"{name}: factor by bits {times}")
plain = {10: 1, 12: 1, 16: 1}
sys.exit(list(found.values()) != [{10: 64, 12: 16, 16: 1}, plain, plain, plain])
PY
