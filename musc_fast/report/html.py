"""report.html: the results of a batch in one file that needs no network.

Per image the file holds one photo and one transparent heat layer (`pictures`) and an SVG outline;
the page's script lays them over each other, so the enlarged view costs no bytes of its own. A
content security policy forbids every request and every script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from ..datasets.read_images import read_image
from ..errors import InputError
from ..files import replacing
from ..metrics import ImageMetrics, image_metrics
from ..shown import path_cell
from . import charts
from .cards import Card, make_card, make_cards
from .heatmap import MapScale, colour_table
from .names import common_folder, printable, relative_names
from .scored_batch import ScoredBatch

# Settings that the page shows elsewhere than in the table.
_OF_SECTIONS = ("skipped", "findings", "found_copies", "found_repeats")
_MISSES = 4  # images in each list of worst misses
_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """What is known of a labelled batch; only the report uses it, no score depends on it.

    labels: [N] bool in the order of the batch's images, True is defective.
    masks: one bool [h, w] (any size) or None an image; drawn as a second outline.
    figures: more metrics to show by name, as {"pixel AUROC": 0.98}; None or NaN is a dash.
    """

    labels: _Bools
    masks: Sequence[_Bools | None] | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)


def write_report(
    path: Path,
    run: ScoredBatch,
    *,
    cards: Sequence[Card] | None = None,
    evaluation: Evaluation | None = None,
    map_scale: MapScale = "batch",
    title: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the report of a batch to `path`, complete or not at all.

    cards: from `make_card` in the order of the batch's images; None reads the images and makes
        them.
    evaluation: labels and masks to compare with; None where there are none.
    map_scale: "batch" for one colour scale, "image" for one an image; as used for `cards`.
    title: what was scored; None takes the last two parts of the images' common folder.
    progress: called after each card made with the number of cards made and their total.

    Raises ImageError where an image cannot be read any more, InputError where labels or masks are
    not one an image.
    """
    if evaluation is not None:
        _check_evaluation(evaluation, len(run.paths))
    if cards is None:
        cards = _read_cards(run, evaluation, map_scale, progress)
    names = relative_names(run.paths)
    _, bins = charts.histogram_bins(run.raw_scores, run.threshold.value)
    rows = [_row(run, cards[i], names[i], int(bins[i])) for i in run.order]
    script = package_text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {
        "script": Markup(script),
        "style": Markup(package_text("report.css")),
        "script_hash": f"sha256-{digest}",
        "title": printable(title or "/".join(common_folder(run.paths).parts[-2:])),
        "run": run,
        "run_id": _run_id(run),
        "rescored": run.is_rescored,
        "flagged": run.verdicts.count("flagged"),
        "look": run.verdicts.count("look"),
        "hints": any(card.hint for card in cards),
        "ignored": any(card.ignored for card in cards),
        "cards": rows,
        "ratio": float(np.clip(np.median([c.width / c.height for c in cards]), 0.4, 2.5)),
        "scale": run.scales("batch")(0),
        "map_scale": map_scale,
        "gradient": _gradient(),
        "histogram": Markup(_histogram(run, evaluation)),
        "settings": [
            (_spaced(key), _setting_text(value))
            for key, value in run.settings.items()
            if key not in _OF_SECTIONS
        ],
        "findings": run.settings.get("findings") or [],
        "skipped": run.settings.get("skipped") or [],
        "aligned": _aligned(run.settings),
        "seconds": sum(run.settings.get("seconds", {}).values()),
        "evaluation": None if evaluation is None else _evaluation_values(run, evaluation, rows),
    }
    page = page_environment().get_template("template.html").stream(values)
    with replacing(path) as temporary, temporary.open("wb") as file:
        page.dump(file, encoding="utf-8", errors="replace")


def _read_cards(
    run: ScoredBatch,
    evaluation: Evaluation | None,
    map_scale: MapScale,
    on_progress: Callable[[int, int], None],
) -> list[Card]:
    scales = run.scales(map_scale)
    masks = None if evaluation is None else evaluation.masks

    def read_card(index: int) -> Card:
        mask = None if masks is None else masks[index]
        image = read_image(run.paths[index], run.reading)
        return make_card(run, index, image, scales(index), mask)

    return make_cards(read_card, len(run.paths), on_progress)


def _run_id(run: ScoredBatch) -> str:
    """A name of these images with these scores, under which a browser keeps a person's checks."""
    digest = hashlib.sha256(run.raw_scores.tobytes())
    for path in run.paths:
        digest.update(os.fsencode(path) + b"\0")
    return digest.hexdigest()[:16]


def _breakable(name: str) -> Markup:
    """A name that may be broken after a separator, so that no browser breaks it in a word."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/_. -])", name) if part)


def _row(run: ScoredBatch, card: Card, name: str, place_in_histogram: int) -> dict[str, Any]:
    """A card as the template shows it."""
    name = printable(name)
    folder, _, file = name.rpartition("/")
    return {
        "card": card,
        "id": f"image-{run.ranks[card.index]}",
        "name": name,
        "folder": folder,
        "file": file,
        "rank": int(run.ranks[card.index]),
        "path": printable(path_cell(run.paths[card.index])),
        "bin": place_in_histogram,
        "verdict": run.verdicts[card.index],
        "flagged": run.verdicts[card.index] == "flagged",
        "p_value": None if run.p_values is None else float(run.p_values[card.index]),
        "score": float(run.image_scores[card.index]),
        "raw": float(run.raw_scores[card.index]),
        "regions": json.dumps(
            [[r.x, r.y, r.width, r.height, r.share, r.peak_score] for r in card.regions]
        ),
    }


def _histogram(run: ScoredBatch, evaluation: Evaluation | None) -> str:
    flagged, look = run.threshold.flagged, run.threshold.look
    if evaluation is None:
        groups = [
            ("clear" if look.any() else "not flagged", "plain", ~flagged & ~look),
            ("to look at", "look", look),
            ("flagged", "flagged", flagged),
        ]
    else:
        labels = evaluation.labels
        groups = [("good", "plain", ~labels), ("defective", "flagged", labels)]
    axis = "raw score: largest distance on the image’s map"
    return charts.histogram(run.raw_scores, run.threshold.value, groups, axis)


def _evaluation_values(
    run: ScoredBatch, evaluation: Evaluation, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The evaluation's tiles, curves and worst misses; `rows` are in the order of the ranks."""
    labels, flagged = evaluation.labels, run.threshold.flagged
    metrics = image_metrics(labels, run.image_scores)
    figures = {"image AUROC": metrics.auroc, "image AP": metrics.ap, "image F1-max": metrics.f1_max}
    defective = [row for row in rows if labels[row["card"].index]]
    good = [row for row in rows if not labels[row["card"].index]]
    return {
        "labels": labels,
        "figures": {**figures, **evaluation.figures},
        "reason": metrics.reason,
        "faultless": metrics.auroc == 1,
        "defective": len(defective),
        "good": len(good),
        "hits": int((flagged & labels).sum()),
        "alarms": int((flagged & ~labels).sum()),
        "curves": [] if metrics.reason else _curves(labels, run.image_scores, flagged, metrics),
        "misses": [
            ("Defective images with the lowest scores", defective[::-1][:_MISSES]),
            ("Good images with the highest scores", good[:_MISSES]),
        ],
    }


def _curves(
    labels: _Bools, scores: NDArray[Any], flagged: _Bools, metrics: ImageMetrics
) -> list[tuple[str, Markup]]:
    """Caption and SVG of the ROC and the precision-recall curve."""
    from sklearn.metrics import precision_recall_curve, roc_curve  # its import takes a second

    false_rate, true_rate, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    roc_point = pr_point = None
    if flagged.any():
        flagged_recall = float(flagged[labels].mean())
        roc_point = float(flagged[~labels].mean()), flagged_recall
        pr_point = flagged_recall, float(labels[flagged].mean())
    roc = charts.curve(
        "roc",
        "ROC curve",
        false_rate,
        true_rate,
        ("false positive rate", "true positive rate"),
        roc_point,
        diagonal=True,
    )
    pr = charts.curve(
        "pr",
        "Precision-recall curve",
        recall,
        precision,
        ("recall", "precision"),
        pr_point,
        diagonal=False,
    )
    return [
        (f"ROC curve, AUROC {metrics.auroc:.4f}", Markup(roc)),
        (f"Precision-recall curve, AP {metrics.ap:.4f}", Markup(pr)),
    ]


def _check_evaluation(evaluation: Evaluation, count: int) -> None:
    if np.shape(evaluation.labels) != (count,):
        raise InputError(
            f"evaluation.labels: found {list(np.shape(evaluation.labels))}, wanted [{count}], one "
            "an image of the run"
        )
    if evaluation.masks is not None and len(evaluation.masks) != count:
        raise InputError(
            f"evaluation.masks: found {len(evaluation.masks)}, wanted {count}, one an image (None "
            "where there is no mask)"
        )


def _gradient() -> str:
    """The colour table as a CSS gradient."""
    stops = colour_table()[np.linspace(0, 255, 18).astype(int)]
    return "linear-gradient(to right," + ",".join(f"rgb({r},{g},{b})" for r, g, b in stops) + ")"


def _spaced(key: str) -> str:
    return key.replace("_", " ")


def _setting_text(value: Any) -> str:
    """A setting as a reader writes it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_spaced(str(k))} {_setting_text(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting_text(each) for each in value) or "none"
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _aligned(settings: Mapping[str, Any]) -> str:
    """What the alignment did, for the reader of the maps; "" where no image was moved."""
    count = settings.get("align_moved")
    if not count:
        return ""
    frame = printable(Path(str(settings.get("align_frame"))).name)
    return (
        f"Images moved onto {frame} before they were compared: {count}. The colours lie on each "
        f"image as it was given; what {frame} does not show of it is not compared."
    )


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _metric(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


@cache
def package_text(name: str) -> str:
    """The text of a file that lies beside this module."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def page_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(package_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        breakable=_breakable, duration=_duration, metric=_metric, sentence=_sentence
    )
    return environment
