#!/usr/bin/env bash
# anomalib 2.7.0 with timm 1.0.31: building anomalib's feature extractor on a vision transformer
# (Dinomaly, AnomalyDINO and others do) changes the features of every other timm transformer of the
# process, those built before included. It sets antialias=False in timm's own
# resample_abs_pos_embed, for the sake of ONNX, and leaves it so. Models that run at another size than
# that of their position embeddings give other features from then on: below it by up to a tenth of
# their mean size (random weights), and above it too, where nothing is there to be anti-aliased
# (torch_bicubic_two_kernels.sh has the reason). An extractor on a ResNet changes nothing.
#
# Why it matters here: the features of one model depend on which other model was made first. A bank
# built in one order and queried in the other compares features that differ everywhere; a comparison
# of two methods in one process measures a different backbone for the second. musc_fast resizes
# with a function of its own.
#
#   PYTHON=python findings/anomalib_changes_timm_models.sh   # takes an environment with anomalib
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "anomalib==2.7.0" "timm==1.0.31"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import timm
import torch
from anomalib.models.components import TimmFeatureExtractor

assert version("anomalib") == "2.7.0", version("anomalib")
NAME = "vit_tiny_patch16_224"
torch.manual_seed(0)
model = timm.create_model(NAME, dynamic_img_size=True).eval()


@torch.no_grad()
def features(side: int) -> torch.Tensor:
    image = torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side)
    return model.forward_features(image)


sides = (112, 224, 448)
before = [features(side) for side in sides]


def changes() -> list[float]:
    return [float((features(s) - b).abs().max()) for s, b in zip(sides, before, strict=True)]


TimmFeatureExtractor("resnet18", layers=["layer1"], pre_trained=False)
by_resnet = changes()
TimmFeatureExtractor(NAME, layers=["blocks.1"], pre_trained=False)
by_transformer = changes()
size = float(before[0].abs().mean())
print(
    f"anomalib {version('anomalib')}, timm {timm.__version__}: another model's features (of mean "
    f"size {size:.2f}) at sides {sides} changed by {by_resnet} after an extractor on a ResNet, by "
    f"{[round(x, 3) for x in by_transformer]} after one on a transformer"
)
sys.exit(any(by_resnet) or [x > 0.01 for x in by_transformer] != [True, False, True])
PY
