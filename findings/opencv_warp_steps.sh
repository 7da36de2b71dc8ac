#!/usr/bin/env bash
# opencv-python-headless 4.13.0.90 moves pictures in steps of 1/32 of a pixel; 5.0.0.93 does not.
# A float32 ramp (no grey level is rounded) is moved by a fraction of a pixel with warpAffine and
# with remap, bilinear. 4.13: a move of 0.01 pixels does nothing at all, one of 0.02 moves by
# 0.03125, one of 0.05 by 0.0625. 5.0: each moves by what was asked for, to 1e-6. Neither says so.
#
# Why it matters here: a registration that is refined to a hundredth of a pixel is applied to a
# thirty-second, and the same matrix gives pictures, hence features and scores, that differ with
# the version. A test that compares a warp with its formula passes on the one and fails on the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/try.py" <<'PY'
import sys

import cv2
import numpy as np

SIDE, ASKED = 64, (0.01, 0.02, 0.05, 0.5)
ramp = np.tile(np.arange(SIDE, dtype=np.float32), (SIDE, 1))
columns, rows = np.meshgrid(*2 * [np.arange(SIDE, dtype=np.float32)])
border = cv2.BORDER_REPLICATE


def found(moved: np.ndarray) -> float:
    return float((ramp - moved)[20:40, 20:40].mean())


moves = {
    "warpAffine": [
        found(
            cv2.warpAffine(ramp, np.float32([[1, 0, by], [0, 1, 0]]), (SIDE, SIDE), borderMode=border)
        )
        for by in ASKED
    ],
    "remap": [
        found(cv2.remap(ramp, columns - np.float32(by), rows, cv2.INTER_LINEAR, borderMode=border))
        for by in ASKED
    ],
}
steps = [float(np.floor(by * 32 + 0.5) / 32) for by in ASKED]
wanted = steps if sys.argv[1] == "steps" else list(ASKED)
for name, moved in moves.items():
    print(f"OpenCV {cv2.__version__}, {name}: asked for {ASKED}, moved by {np.round(moved, 5)}")
sys.exit(not all(np.allclose(moved, wanted, atol=1e-5) for moved in moves.values()))
PY
for wanted in 4.13.0.90:steps 5.0.0.93:exact; do
  "$folder/venv/bin/pip" install --quiet "opencv-python-headless==${wanted%%:*}" "numpy==2.2.6"
  "$folder/venv/bin/python" "$folder/try.py" "${wanted##*:}"
done
