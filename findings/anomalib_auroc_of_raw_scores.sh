#!/usr/bin/env bash
# anomalib 2.7.0 with torchmetrics 1.9.0: AUROC and AUPR of anomaly scores above 1 are those of
# other numbers. torchmetrics takes a batch that has a value outside 0..1 for logits and puts it
# through a sigmoid, which in float32 is 1 from about 17 on: scores of 20, 25 (good), 30, 35
# (defects) have an AUROC of 0.5. F1Max of the same package does not do so and says 1.0. And it is
# decided batch by batch: where one batch lies within 0..1 and another does not, the two are no
# longer compared on one scale, so the AUROC of the same scores depends on the batch size.
#
# Why it matters here: distances are such scores. PatchCore's raw ones are in the tens (saturated);
# musc_fast's are up to 2 (some batches of a set are changed and some are not, which looks like a
# slightly worse detector). Scale raw scores into 0..1 by one rule for all before they are measured.
#
#   PYTHON=python findings/anomalib_auroc_of_raw_scores.sh   # takes an environment with anomalib
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "anomalib==2.7.0" "torchmetrics==1.9.0"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUROC, F1Max

assert version("anomalib") == "2.7.0", version("anomalib")


def measured(kind: type, scores: list[float], labels: list[int], batch: int) -> float:
    metric = kind(fields=["pred_score", "gt_label"])
    for first in range(0, len(scores), batch):
        part = slice(first, first + batch)
        metric.update(
            ImageBatch(
                image=torch.zeros(len(scores[part]), 3, 4, 4),
                pred_score=torch.tensor(scores[part]),
                gt_label=torch.tensor(labels[part]),
            )
        )
    return round(float(metric.compute()), 3)


large = {
    kind.__name__: measured(kind, [20.0, 25.0, 30.0, 35.0], [0, 0, 1, 1], 4)
    for kind in (AUROC, AUPR, F1Max)
}
scores, labels = [0.2, 0.8, 0.3, 0.9, 0.4, 1.05, 0.5, 1.2], [0, 0, 0, 1, 0, 1, 0, 1]
by_batch = {batch: measured(AUROC, scores, labels, batch) for batch in (8, 4, 1)}
print(f"anomalib {version('anomalib')}, torchmetrics {version('torchmetrics')}, scores that separate:")
print(f"20, 25 good, 30, 35 defects: {large}")
print(f"0.2 to 0.8 good, 0.9 to 1.2 defects: AUROC by batch size {by_batch}")
sys.exit(large != {"AUROC": 0.5, "AUPR": 0.5, "F1Max": 1.0} or len(set(by_batch.values())) == 1)
PY
