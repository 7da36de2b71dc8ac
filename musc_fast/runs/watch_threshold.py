"""The threshold that a watch wants, from the scores of a batch made with the same settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.ignored import ARRAY_NAME
from ..features.weights.find import LOCAL_FILE
from ..settings import ReadSettings
from ..threshold import FALSE_ALARMS, ReferenceScale

# Settings of a run by the options of `musc-fast watch` that they must be given as.
_OPTIONS = {
    "backbone": "--backbone",
    "image_size": "--size",
    "tiles": "--tiles",
    "tile_margin": "--tile-margin",
    "recipe": "--recipe",
    "degrees": "--degrees",
    "topmin": "--topmin",
    "pooling": "--pooling",
    "temperature": "--temperature",
    "copies": "--copies",
    "repeats": "--repeats",
    "precision": "--precision",
    "chosen_place": "--place",
    "feature_precision": "--feature-precision",
    "white": "--white",
    "max_pixels": "--max-pixels",
    "align": "--align",
}
_USUAL = {
    "topmin": (0.0, 0.3),
    "pooling": "lnamd",
    "temperature": 1.0,
    "copies": "auto",
    "repeats": "off",
    "precision": "exact",
    "chosen_place": "off",
    "white": None,
    "tiles": None,
    "tile_margin": None,
    "max_pixels": ReadSettings.max_pixels,
    "align": "off",
}


def watch_threshold(scores: npt.ArrayLike, *, false_alarms: float = FALSE_ALARMS) -> float | None:
    """The raw score from which on `musc-fast watch --threshold` should flag; None: not known.

    scores: [n] raw scores of images against each other, of a batch or of references. Those that
        stand apart do not count. A bank of about as many images gives such scores.
    """
    return ReferenceScale(scores).level(false_alarms)


def watch_command(
    settings: Mapping[str, Any],
    threshold: float | None,
    *,
    references: Path | None = None,
    false_alarms: float = FALSE_ALARMS,
) -> str | None:
    """The command line of a watch with the settings of a run, whose scores a threshold is of.

    settings: as from `runs.record.run_settings`.
    threshold: None leaves the decision to the bank of the watch.
    references: a folder of good images that the bank is to begin with.
    false_alarms: stated to the watch where its bank decides, and where it is not the usual.

    A local file of weights is named as the run was given it. None where no watch has these
    settings: a watch compares with all images of its bank, and reads what it ignores from files.
    """
    ignored = settings.get("ignore", [])
    if settings["max_references"] is not None or ARRAY_NAME in ignored:
        return None
    words = ["musc-fast", "watch", "FOLDER", "--bank", "FILE"]
    if references is not None:
        words += ["--references", str(references)]
    for name, option in _OPTIONS.items():
        value = settings.get(name, _USUAL.get(name))
        if name in _USUAL and value == _USUAL[name]:
            continue
        words += [option, _text(value)]
    source = settings.get("weights", "")
    if source.startswith(LOCAL_FILE):
        words += ["--weights", source.removeprefix(LOCAL_FILE)]
    for each in ignored:
        words += ["--ignore", each]
    if threshold is not None:
        words += ["--threshold", f"{threshold:.6g}"]
    elif false_alarms != FALSE_ALARMS:
        words += ["--false-alarms", f"{false_alarms:g}"]
    return shlex.join(words)


def watch_settings(
    settings: Mapping[str, Any],
    scores: npt.ArrayLike,
    *,
    flagged: npt.ArrayLike = (),
    decided: bool = True,
    references: Path | None = None,
    false_alarms: float = FALSE_ALARMS,
) -> dict[str, Any] | None:
    """What run.json tells of a watch with these settings: threshold, false_alarms, command.

    scores: as for `watch_threshold`; false_alarms: share of good images that may be flagged.
    flagged: raw scores of the images that the run flagged, which a watch should flag as well.
    decided: whether the run could tell; a batch in which nothing is flagged is undecided, and its
        defects are among its scores.
    references: as for `watch_command`.

    The threshold is None, and not in the command, where the run or the scores could not tell, or
    the threshold is above what the run flagged: few images put it far out, and it would decide in
    place of the bank. The whole is None where no watch has these settings.
    """
    threshold = None
    if decided and np.size(scores):
        threshold = watch_threshold(scores, false_alarms=false_alarms)
    if threshold is not None and np.min(np.asarray(flagged), initial=np.inf) < threshold:
        threshold = None
    command = watch_command(settings, threshold, references=references, false_alarms=false_alarms)
    if command is None:
        return None
    return {"threshold": threshold, "false_alarms": false_alarms, "command": command}


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_text(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
