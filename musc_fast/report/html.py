"""report.html: the whole run in one file that needs no network.

Per image the file holds one photo and one transparent heat layer (`pictures`) and an SVG outline;
the page puts them together, so the enlarged view costs no bytes of its own. A content security
policy forbids every request and every script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import precision_recall_curve, roc_curve

from ..datasets.images import read_image
from ..errors import InputError
from ..files import replacing
from ..metrics import ImageMetrics, image_metrics
from . import charts, pictures
from .heatmap import MapScale, Scale, colour_table, scale_of
from .outline import svg_path
from .regions import Region, label_regions, measure_regions

if TYPE_CHECKING:
    from .results import Run

_VIEW = 1000  # longest side of an outline's coordinates
_MISSES = 4
_Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """What is known of a labelled batch, used for the report alone.

    Attributes:
        labels: [N] bool in the order of the run's images, True is defective.
        masks: one bool [h, w] (any size) or None an image; drawn as a second outline.
        figures: more metrics to show by name, as {"pixel AUROC": 0.98}; None or NaN is a dash.
    """

    labels: _Bools
    masks: Sequence[_Bools | None] | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What the page shows of one image.

    photo, heat: data URIs. regions refer to the original of width x height; outline and truth are
    SVG paths in a view of (width, height) `view`.
    """

    index: int
    width: int
    height: int
    photo: str
    heat: str
    scale: Scale
    regions: Sequence[Region]
    outline: str
    truth: str
    view: tuple[int, int]


def make_card(
    run: Run, index: int, image: Image.Image, scale: Scale, mask: _Bools | None = None
) -> Card:
    """Measure and encode one image of a run."""
    anomaly_map, threshold = run.anomaly_maps[index], run.pixel_threshold
    labels = label_regions(anomaly_map, threshold)
    part = _VIEW / max(image.size)
    height, width = (max(1, round(side * part)) for side in (image.height, image.width))
    heat = pictures.heat(anomaly_map, scale)
    return Card(
        index=index,
        width=image.width,
        height=image.height,
        photo=pictures.data_uri(pictures.photo(image, pictures.PICTURE_BYTES - len(heat))),
        heat=pictures.data_uri(heat),
        scale=scale,
        regions=measure_regions(labels, anomaly_map, (image.height, image.width)),
        outline=(
            "" if threshold is None else svg_path(labels, anomaly_map, threshold, (height, width))
        ),
        truth=(
            "" if mask is None else svg_path(mask.astype(np.int8), mask * 1.0, 0.5, (height, width))
        ),
        view=(width, height),
    )


def write_report(
    path: Path,
    run: Run,
    *,
    cards: Sequence[Card] | None = None,
    evaluation: Evaluation | None = None,
    map_scale: MapScale = "batch",
    title: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the report of a run to `path`, complete or not at all.

    cards: from `make_card` in the order of the run's images; None reads the images and makes them.
    title: what was scored; None takes the last two parts of the images' common folder.
    Raises ImageError where an image cannot be read any more, InputError where labels or masks are
    not one an image.
    """
    if evaluation is not None:
        _check(evaluation, len(run.paths))
    if cards is None:
        cards = _cards(run, evaluation, map_scale, progress)
    rows = [_row(run, cards[i], name) for i, name in _ranked(run)]
    page = _environment().get_template("template.html")
    script, style = _own("report.js"), _own("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    batch = Scale.of(run.anomaly_maps)
    values = {
        "script": Markup(script),
        "style": Markup(style),
        "script_hash": f"sha256-{digest}",
        "title": _readable(title or "/".join(_folder(run.paths).parts[-2:])),
        "run": run,
        "rescored": not np.array_equal(run.image_scores, run.raw_scores),
        "flagged": int(run.threshold.flagged.sum()),
        "cards": rows,
        "ratio": float(np.clip(np.median([c.width / c.height for c in cards]), 0.4, 2.5)),
        "scale": batch,
        "map_scale": map_scale,
        "gradient": _gradient(),
        "histogram": Markup(_histogram(run, evaluation)),
        "settings": [(_words(k), _value(v)) for k, v in run.settings.items() if k != "skipped"],
        "skipped": run.settings.get("skipped") or [],
        "seconds": sum(run.settings.get("seconds", {}).values()),
        "evaluation": None if evaluation is None else _judged(run, evaluation, rows),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        page.stream(values).dump(file, encoding="utf-8", errors="replace")


def relative_names(paths: Sequence[Path]) -> list[str]:
    """Each path below the images' common folder, with forward slashes."""
    root = _folder(paths)
    return [_plain(path).relative_to(root).as_posix() for path in paths]


def _folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([_plain(path).parent for path in paths]))


def _plain(path: Path) -> Path:
    """Absolute, without `..`: a name with one would leave the folder it is put in."""
    return Path(os.path.abspath(path))


def _ranked(run: Run) -> list[tuple[int, str]]:
    """Index and name of each image, rank 1 first."""
    names = relative_names(run.paths)
    return [(int(i), names[i]) for i in np.argsort(run.ranks)]


def _cards(
    run: Run,
    evaluation: Evaluation | None,
    map_scale: MapScale,
    progress: Callable[[int, int], None],
) -> list[Card]:
    scales = scale_of(run.anomaly_maps, map_scale)
    masks = evaluation.masks if evaluation is not None and evaluation.masks is not None else None

    def one(index: int) -> Card:
        mask = None if masks is None else masks[index]
        return make_card(run, index, read_image(run.paths[index]), scales(index), mask)

    cards = []
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for done, card in enumerate(pool.map(one, range(len(run.paths))), 1):
            cards.append(card)
            progress(done, len(run.paths))
    return cards


def _row(run: Run, card: Card, name: str) -> dict[str, Any]:
    """A card as the template shows it."""
    name = _readable(name)
    folder, _, file = name.rpartition("/")
    return {
        "card": card,
        "id": f"image-{run.ranks[card.index]}",
        "name": name,
        "folder": folder,
        "file": file,
        "rank": int(run.ranks[card.index]),
        "flagged": bool(run.threshold.flagged[card.index]),
        "score": float(run.image_scores[card.index]),
        "raw": float(run.raw_scores[card.index]),
        "regions": json.dumps(
            [[r.x, r.y, r.width, r.height, r.share, r.peak_score] for r in card.regions]
        ),
    }


def _readable(name: str) -> str:
    """File names that are not UTF-8 hold lone surrogates, which no page can."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _histogram(run: Run, evaluation: Evaluation | None) -> str:
    flagged = run.threshold.flagged
    if evaluation is None:
        groups = [("not flagged", "plain", ~flagged), ("flagged", "flagged", flagged)]
    else:
        labels = evaluation.labels
        groups = [("good", "plain", ~labels), ("defective", "flagged", labels)]
    axis = "peak: largest distance on the image’s map"
    return charts.histogram(run.raw_scores, run.threshold.value, groups, axis)


def _judged(run: Run, evaluation: Evaluation, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The evaluation's tiles, curves and worst misses; `rows` are in the order of the ranks."""
    labels, flagged = evaluation.labels, run.threshold.flagged
    found = image_metrics(labels, run.image_scores)
    figures = {"image AUROC": found.auroc, "image AP": found.ap, "image F1-max": found.f1_max}
    bad = [row for row in rows if labels[row["card"].index]]
    good = [row for row in rows if not labels[row["card"].index]]
    return {
        "labels": labels,
        "figures": {**figures, **evaluation.figures},
        "reason": found.reason,
        "defective": len(bad),
        "good": len(good),
        "hits": int((flagged & labels).sum()),
        "alarms": int((flagged & ~labels).sum()),
        "curves": [] if found.reason else _curves(labels, run.image_scores, flagged, found),
        "misses": [
            ("Defective images with the lowest scores", bad[::-1][:_MISSES]),
            ("Good images with the highest scores", good[:_MISSES]),
        ],
    }


def _curves(
    labels: _Bools, scores: NDArray[Any], flagged: _Bools, found: ImageMetrics
) -> list[tuple[str, Markup]]:
    """Caption and SVG of the ROC and the precision-recall curve."""
    rate, hit, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    on_roc = on_pr = None
    if flagged.any():
        share = float(flagged[labels].mean())
        on_roc = float(flagged[~labels].mean()), share
        on_pr = share, float(labels[flagged].mean())
    roc = charts.curve(
        "roc",
        "ROC curve",
        rate,
        hit,
        ("false positive rate", "true positive rate"),
        on_roc,
        diagonal=True,
    )
    pr = charts.curve(
        "pr",
        "Precision-recall curve",
        recall,
        precision,
        ("recall", "precision"),
        on_pr,
        diagonal=False,
    )
    return [
        (f"ROC curve, AUROC {found.auroc:.4f}", Markup(roc)),
        (f"Precision-recall curve, AP {found.ap:.4f}", Markup(pr)),
    ]


def _check(evaluation: Evaluation, count: int) -> None:
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
    """The colour table as CSS."""
    stops = colour_table()[np.linspace(0, 255, 18).astype(int)]
    return "linear-gradient(to right," + ",".join(f"rgb({r},{g},{b})" for r, g, b in stops) + ")"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: Any) -> str:
    """A setting as a reader writes it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(k))} {_value(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(each) for each in value) or "none"
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


@cache
def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(duration=_duration, figure=_figure, sentence=_sentence)
    return environment
