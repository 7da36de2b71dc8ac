#!/usr/bin/env bash
# anomalib 2.7.0: the weakest defect of the validation images is never labelled, in the default
# post-processor. F1AdaptiveThreshold gives the score from which on, at or above, F1 is highest;
# that is a score of a validation image, as a rule of the weakest defect. PostProcessor then labels
# what is strictly above it. Scores that separate perfectly (good 0.1, 0.2; defects 0.8, 0.9) get
# the best F1 of 1.0 from the one class and 0.67 from the labels of the other.
#
# Why it matters here: with few labelled defects each one counts, and an F1Score of the same images
# that is below F1Max looks like a fault of the scores. musc_fast.anomalib labels at or above.
#
#   PYTHON=python findings/anomalib_weakest_defect.sh   # takes an environment that has anomalib
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "anomalib==2.7.0"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1Max, F1Score
from anomalib.post_processing import PostProcessor

assert version("anomalib") == "2.7.0", version("anomalib")


def batch() -> ImageBatch:
    return ImageBatch(
        image=torch.zeros(4, 3, 8, 8),
        pred_score=torch.tensor([0.1, 0.2, 0.8, 0.9]),
        gt_label=torch.tensor([0, 0, 1, 1]),
    )


post = PostProcessor()
post.on_validation_batch_end(None, None, batch())
post.on_validation_epoch_end(None, None)
same = batch()
best = F1Max(fields=["pred_score", "gt_label"])
best.update(same)
post.post_process_batch(same)
found = F1Score(fields=["pred_label", "gt_label"])
found.update(same)
print(
    f"anomalib {version('anomalib')}: threshold {float(post.image_threshold):.1f}, labels "
    f"{same.pred_label.tolist()}, best F1 {float(best.compute()):.2f}, F1 of the labels "
    f"{float(found.compute()):.2f}"
)
sys.exit(same.pred_label.tolist() != [False, False, False, True])
PY
