#!/usr/bin/env bash
# anomalib 2.7.0 asks for any pandas from 1.1.0 on, so a new installation gets pandas 3. With that
# no good image of MVTec 3D-AD's training or validation part can be read: the first item ends in
# "TypeError: Path must be None, a string, or Path object, got <class 'float'>". The test part reads.
#
# The data set turns its columns of paths into strings. Good images have no mask: pandas 2 wrote
# that gap as the text "nan", which passes for a path that nobody opens; pandas 3 keeps it as a
# missing number. So it had worked by the text "nan"; pandas 2.3.3 is the way out.
#
# Why it matters here: a model of depth cannot be trained there, and ours cannot be fitted on that
# data set, and the message names neither pandas nor the mask.
#
#   PYTHON=python findings/anomalib_mvtec3d_pandas3.sh   # takes an environment that has anomalib
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "anomalib==2.7.0"
fi
cd "$folder"
cat >read.py <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas
import tifffile
from anomalib.data.datasets.depth.mvtec_3d import MVTec3DDataset
from PIL import Image

assert version("anomalib") == "2.7.0", version("anomalib")
rng = np.random.default_rng(0)
for part in ("train/good", "validation/good", "test/good", "test/hole"):
    for kind in ("rgb", "xyz") + (("gt",) if part.startswith("test") else ()):
        Path("data/part", part, kind).mkdir(parents=True, exist_ok=True)
    base = Path("data/part", part)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(base / "rgb/000.png")
    tifffile.imwrite(base / "xyz/000.tiff", rng.random((32, 32, 3), dtype=np.float32))
    if part.startswith("test"):
        Image.fromarray(np.full((32, 32), 255 * part.endswith("hole"), np.uint8)).save(
            base / "gt/000.png"
        )
read = {}
for split in ("train", "validation", "test"):
    data = MVTec3DDataset(root="data", category="part", split=split)
    try:
        read[split] = len([data[at] for at in range(len(data))])
    except TypeError as error:
        read[split] = f"TypeError: {error}"
assert pandas.__version__ == sys.argv[1], pandas.__version__
print(f"anomalib {version('anomalib')}, pandas {pandas.__version__}: items read {read}")
lost = all(str(read[split]).startswith("TypeError: Path must be") for split in ("train", "validation"))
kept = read["train"] == read["validation"] == 1
sys.exit(not (read["test"] == 2 and (lost if sys.argv[1].startswith("3") else kept)))
PY
for pandas in 2.3.3 3.1.1; do
  "$PYTHON" -m pip install --quiet --no-deps --target "$folder/$pandas" "pandas==$pandas" \
    pytz==2025.2 tzdata==2025.2
  PYTHONPATH="$folder/$pandas" "$PYTHON" -W ignore read.py "$pandas"
done
