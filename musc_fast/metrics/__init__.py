"""Detection and segmentation metrics: AUROC, F1-max, AP and PRO.

Two protocols, which differ only in how PRO is computed:

- `"musc"`: as the official MuSc code evaluates (github.com/xrli-U/MuSc), so that figures compare
  with its tables. PRO is taken at about 200 equally spaced thresholds from the lowest to the
  highest score; a pixel is flagged if its score is strictly greater. Only thresholds with a false
  positive rate below 0.3 count; their rates are rescaled to [0, 1] by minimum and maximum, and the
  curve is integrated by trapezoids.
- `"mvtec"`: as MVTec AD defines PRO (Bergmann et al., IJCV 2021, section 5.1): every distinct score
  is a threshold, the curve is integrated over false positive rates from 0 to 0.3, interpolated
  linearly at 0.3, and divided by 0.3.

AUROC, F1-max and AP equal scikit-learn's `roc_auc_score`, maximum over `precision_recall_curve` and
`average_precision_score`, ties included. An undefined metric is NaN, with a reason (the official
code gives 0 for one class at image level).
"""

from .checks import Protocol
from .image import ImageMetrics, auroc_interval, image_metrics
from .pixel import PixelMetrics, pixel_metrics

__all__ = [
    "ImageMetrics",
    "PixelMetrics",
    "Protocol",
    "auroc_interval",
    "image_metrics",
    "pixel_metrics",
]
