#!/usr/bin/env bash
# Pillow 13.0.0 and opencv-python-headless 5.0.0.93 turn a TIFF in which 0 is white
# (PhotometricInterpretation 0, WhiteIsZero) round where it has 8 bits, and hand it out as stored
# where it has 16: the same picture is a positive in the one depth and a negative in the other.
# Neither tells which it did. tifffile 2026.3.3 never turns it, in either depth.
#
# Why it matters here: X-ray detectors and film scanners write such files. A batch that mixes
# depths, or references of 8 bits for pictures of 16, compares negatives with positives; a bright
# blow-hole becomes dark. musc_fast turns every depth round.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pillow==13.0.0" "opencv-python-headless==5.0.0.93" \
  "tifffile==2026.3.3" "numpy==2.2.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image

levels = np.arange(48).reshape(6, 8)
turned = {}
for depth in (np.uint8, np.uint16):
    most = np.iinfo(depth).max
    stored = (levels * (most // 255)).astype(depth)
    tifffile.imwrite("picture.tif", stored, photometric="miniswhite")
    readers = {
        f"Pillow {PIL.__version__}": np.asarray(Image.open("picture.tif")),
        f"OpenCV {cv2.__version__}": cv2.imread("picture.tif", cv2.IMREAD_UNCHANGED),
        f"tifffile {tifffile.__version__}": tifffile.imread("picture.tif"),
    }
    for name, read in readers.items():
        as_stored, round_about = (np.array_equal(read, x) for x in (stored, most - stored))
        assert as_stored != round_about, name
        turned.setdefault(name, []).append(round_about)
for name, depths in turned.items():
    print(f"{name}: turned round at 8 bits {depths[0]}, at 16 bits {depths[1]}")
sys.exit(list(turned.values()) != [[True, False], [True, False], [False, False]])
PY
