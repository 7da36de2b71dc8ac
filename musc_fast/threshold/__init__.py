"""Which images of a batch are flagged, which are clear, and which a person should look at.

`find_threshold` judges a batch by itself, `judge_by_references` by other images, mostly good ones.
"""

from __future__ import annotations

from .batch import ALPHA, DEFAULT_RULE, LOOK_SHARE, MIN_IMAGES, RULES, Rule, find_threshold
from .references import FALSE_ALARMS, FALSE_DISCOVERIES, ReferenceScale, judge_by_references
from .result import VERDICTS, Threshold, Verdict

__all__ = [
    "ALPHA",
    "DEFAULT_RULE",
    "FALSE_ALARMS",
    "FALSE_DISCOVERIES",
    "LOOK_SHARE",
    "MIN_IMAGES",
    "RULES",
    "VERDICTS",
    "ReferenceScale",
    "Rule",
    "Threshold",
    "Verdict",
    "find_threshold",
    "judge_by_references",
]
