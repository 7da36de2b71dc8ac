"""How a scored batch shows itself in a notebook: a table and pictures, one picture, a chart."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..shown import shown
from . import pictures
from .heatmap import Scale, grey_map, heat_map, overlay, panel
from .html import page_environment
from .names import relative_names
from .scored_batch import ScoredBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The picture of an image by its place in the batch; None where there is none to be had.
Picture = Callable[[int], Image.Image | None]

ROWS = 10
CARDS = 6
_SIDE = 200  # longest side of a picture, in pixels
_BYTES = 12_000  # of a picture, before base64
_COLOURS = {"flagged": "#c2255c", "look": "#e8870e", "clear": "#5c7c99"}


def summary_html(batch: ScoredBatch, title: str, picture: Picture) -> str:
    """The most anomalous images as a piece of HTML: pictures with their maps, and a table.

    It has no script and no style sheet, and its colours are those of the notebook. A picture is of
    about ten kilobytes, since a notebook keeps what it shows.

    title: a line above.
    """
    names = shown_names(batch)
    scale = batch.scales("batch")
    cards = [
        {
            "name": names[index],
            "score": f"{batch.raw_scores[index]:#.4g}",
            "verdict": batch.verdicts[index],
            **_card(batch, index, scale(index), picture(index)),
        }
        for index in map(int, batch.order[:CARDS])
    ]
    rows = [
        {
            "name": names[index],
            "image_score": f"{batch.image_scores[index]:#.4g}",
            "raw_score": f"{batch.raw_scores[index]:#.4g}",
            "verdict": batch.verdicts[index],
        }
        for index in map(int, batch.order[:ROWS])
    ]
    template = page_environment().get_template("notebook.html")
    return template.render(
        title=title,
        reason=shown(batch.threshold.reason),
        cards=cards,
        rows=rows,
        rescored=batch.is_rescored,
        more=len(batch.paths) - len(rows),
    )


def picture_of_one(batch: ScoredBatch, index: int, image: Image.Image | None) -> Image.Image:
    """One image, its heat map over it and the colour bar, side by side, below a caption.

    image: None shows the map in grey instead.
    """
    scale = batch.scales("batch")(index)
    if image is None:
        anomaly_map = batch.anomaly_maps[index]
        image = grey_map(anomaly_map, scale, _at_least(anomaly_map.shape))
    caption = (
        f"{shown_names(batch)[index]}   raw score {batch.raw_scores[index]:.4g}   "
        f"rank {batch.ranks[index]}/{len(batch.paths)}   {batch.verdicts[index]}"
    )
    return panel(image, batch.anomaly_maps[index], scale, caption)


def chart(batch: ScoredBatch, ax: Axes | None = None) -> Axes:
    """The raw scores in descending order, coloured by verdict, with the threshold.

    ax: axes of matplotlib to draw on; None makes a figure.

    Raises ImportError where matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot, ticker
    except ImportError:
        raise ImportError(
            "plot draws with matplotlib, which is not installed: pip install matplotlib"
        ) from None
    if ax is None:
        _, ax = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    order = np.argsort(-batch.raw_scores, kind="stable")
    verdicts = np.array(batch.verdicts)[order]
    for verdict, colour in _COLOURS.items():
        places = np.flatnonzero(verdicts == verdict)
        if places.size:
            ax.bar(places + 1, batch.raw_scores[order][places], color=colour, label=verdict)
    if batch.threshold.value is not None:
        ax.axhline(batch.threshold.value, color="black", linewidth=1, label="threshold")
    ax.set(xlabel="images, by raw score", ylabel="raw score")
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    ax.legend()
    return ax


def shown_names(batch: ScoredBatch) -> list[str]:
    """The names of the images below their common folder, as people see them."""
    return [shown(name) for name in relative_names(batch.paths)]


def _card(
    batch: ScoredBatch, index: int, scale: Scale, image: Image.Image | None
) -> dict[str, str]:
    """The source of the picture of an image, and what it shows."""
    anomaly_map = batch.anomaly_maps[index]
    if image is None:
        both = heat_map(anomaly_map, scale, _at_least(anomaly_map.shape))
        what = "heat map"
    else:
        small = image.convert("RGB")
        small.thumbnail((_SIDE, _SIDE), reducing_gap=3.0)
        over, gap = overlay(small, anomaly_map, scale), 4
        wide = small.width > 2 * small.height  # then the overlay lies below
        step = (0, small.height + gap) if wide else (small.width + gap, 0)
        size = (small.width + step[0], small.height + step[1])
        both = Image.new("RGB", size, "white")
        both.paste(small, (0, 0))
        both.paste(over, step)
        what = "the image, and its heat map over it"
    data = pictures.photo(both, _BYTES, longest=max(both.size))
    return {"source": pictures.data_uri(data), "what": what}


def _at_least(shape: tuple[Any, ...]) -> tuple[int, int]:
    """The size (h, w) of a map as a picture: its own, or enlarged to `_SIDE`."""
    factor = max(1.0, _SIDE / max(shape))
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
