"""The settings of mutual scoring: checked when they are made, and known without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from .errors import InputError
from .progress import Progress

PRECISIONS = ("exact", "fast")
DegreeFusion = Literal["scores", "features"]
DEGREE_FUSIONS: tuple[DegreeFusion, ...] = get_args(DegreeFusion)
Place = int | Literal["off", "auto"]


@dataclass(frozen=True)
class Window:
    """Which patches of another image a patch is compared with: those near its own place.

    grid: (H, W), rows and columns of patches; the patches lie row by row.
    reach: places, to either side along rows and columns (Chebyshev distance).

    Raises InputError naming what is wrong.
    """

    grid: tuple[int, int]
    reach: int

    def __post_init__(self) -> None:
        sized = isinstance(self.grid, Sequence) and len(self.grid) == 2
        if not sized or not all(_is_whole(side, 1, 1 << 30) for side in self.grid):
            raise InputError(f"window: found the grid {self.grid!r}, wanted (H, W), 1 or more")
        object.__setattr__(self, "grid", (int(self.grid[0]), int(self.grid[1])))
        object.__setattr__(self, "reach", whole_number("window", self.reach, 0, 1 << 30))


Align = Literal["off", "auto", "rigid", "similarity"]
ALIGNS: tuple[Align, ...] = get_args(Align)
PoolingName = Literal["lnamd", "snamd", "snamd-unit"]
POOLINGS: tuple[PoolingName, ...] = get_args(PoolingName)
Similarity = Literal["class", "salient"]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)
Switch = Literal["off", "auto"]
SWITCHES: tuple[Switch, ...] = get_args(Switch)


@dataclass(frozen=True)
class SearchOptions:
    """How the nearest patches are searched; every operator of every backend takes these.

    precision: "exact" (distances within 1e-5 of fp64) or "fast".
    memory_limit: bytes that may be used beyond input and output; None takes a share of what is
        free.
    on_progress: called with (done, total) as the work goes on; None: nobody is told.
    window: only patches near the own place are searched; None: all of an image.

    Raises InputError naming the option.
    """

    precision: str = "exact"
    memory_limit: int | None = None
    on_progress: Progress | None = None
    window: Window | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.window is not None and not isinstance(self.window, Window):
            raise InputError(f"window: found {self.window!r}, wanted a Window or None")
        if self.on_progress is not None and not callable(self.on_progress):
            raise InputError(f"progress: found {self.on_progress!r}, wanted a function")
        check_memory_limit(self.memory_limit)
        _set_whole(self, "memory_limit")

    @property
    def exact(self) -> bool:
        """Whether distances are certified."""
        return self.precision == "exact"


@dataclass(frozen=True)
class ReadSettings:
    """How image files are read.

    white: the value that is white in images of more than 8 bits a channel, such as 4095 of a camera
        of 12 bits; None: see `datasets.deep.batch_white`. Images of 8 bits do not depend on it.
    max_pixels: images with more pixels are refused, since a small file can hold a huge picture.

    Raises InputError naming the setting.
    """

    white: float | None = None
    max_pixels: int = 178_956_970

    def __post_init__(self) -> None:
        white, limit = self.white, self.max_pixels
        if white is not None and not (
            isinstance(white, int | float | np.number) and math.isfinite(white) and white > 0
        ):
            raise InputError(f"white: found {white!r}, wanted the value of white, above 0")
        if not isinstance(limit, int) or limit < 1:
            raise InputError(f"max_pixels: found {limit!r}, wanted a whole number, 1 or more")


@dataclass(frozen=True)
class ScoringSettings:
    """What decides the scores of a batch besides its tokens, and how they are computed.

    degrees: odd neighbourhood sides of LNAMD.
    topmin: interval of the sorted distances that MSM averages; fractions below 1, counts from 1.
    neighbors: the k of RsCIN.
    backend: "auto" or a name from `musc_fast.backends`.
    precision, memory_limit: see `SearchOptions`.
    max_references: score each image against so many others only; None: all.
    degree_fusion: "scores" averages the scores of the degrees; "features" averages LNAMD's results
        over the degrees and searches once a layer.
    place: patches are compared with those of the other images within so many places of their own;
        "off": with all; "auto": within a window where a few images show that it is safe
        (`scoring.place`).
    pooling: how neighbourhoods are pooled: "lnamd" (the paper), "snamd" (MuSc-V2: neighbours count
        by their likeness), or "snamd-unit", the same on features of norm 1.
    temperature: of SNAMD: a neighbour at this distance counts 1 / e; 1 is that of MuSc-V2.
    similarity: what tells that images are alike where scores are smoothed over them: "class", the
        class tokens (RsCIN), or "salient", the most anomalous patches (RsCon of MuSc-V2).
    copies: "auto" leaves an image out as a reference of its copies.
    repeats: "auto" leaves links between images that share a defect out.
    tiles: (rows, columns): the grid is of so many tiles, and a patch is compared with the patches
        of about the same place of the other images: all that lie within `tile_margin` rows and
        columns of its own, and some up to three times as far. None: with all patches.
    tile_margin: None: a quarter of a tile's shorter side.

    The sequences are held as tuples. Raises InputError naming the setting.
    """

    degrees: Sequence[int] = (1, 3, 5)
    topmin: tuple[float, float] = (0.0, 0.3)
    neighbors: Sequence[int] = (1, 2, 3)
    backend: str = "auto"
    precision: str = "exact"
    memory_limit: int | None = None
    max_references: int | None = None
    degree_fusion: DegreeFusion = "scores"
    place: Place = "off"
    pooling: PoolingName = "lnamd"
    temperature: float = 1.0
    similarity: Similarity = "class"
    copies: Switch = "off"
    repeats: Switch = "off"
    tiles: tuple[int, int] | None = None
    tile_margin: int | None = None

    def __post_init__(self) -> None:
        check_degrees(self.degrees)
        check_topmin(self.topmin)
        check_neighbors(self.neighbors)
        check_backend_name(self.backend)
        check_precision(self.precision)
        check_memory_limit(self.memory_limit)
        check_max_references(self.max_references)
        check_degree_fusion(self.degree_fusion)
        check_place(self.place)
        check_one_of("pooling", self.pooling, POOLINGS)
        check_temperature(self.temperature, self.pooling)
        check_one_of("similarity", self.similarity, SIMILARITIES)
        check_switch("copies", self.copies)
        check_switch("repeats", self.repeats)
        if self.repeats != "off" and self.max_references is not None:
            raise InputError(
                "repeats: they show in the distances to all images; leave max_references out, or "
                "repeats"
            )
        object.__setattr__(self, "tiles", checked_tiles(self.tiles))
        if self.tile_margin is not None:
            whole_number("tile_margin", self.tile_margin, 0)
        object.__setattr__(self, "degrees", tuple(int(degree) for degree in self.degrees))
        object.__setattr__(self, "topmin", tuple(float(bound) for bound in self.topmin))
        object.__setattr__(self, "neighbors", tuple(int(k) for k in self.neighbors))
        for name in ("memory_limit", "max_references", "tile_margin"):
            _set_whole(self, name)
        if not isinstance(self.place, str):
            _set_whole(self, "place")

    def keywords(self) -> dict[str, Any]:
        """The settings by name, as `score_batch` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def unusual(self) -> dict[str, Any]:
        """Those of the settings of this kind that decide patch scores and are not the paper's.

        They go into the keys of what is kept, as JSON holds them, so that what was kept without
        them stays good.
        """
        plain = {
            "pooling": "lnamd",
            "temperature": 1.0,
            "tiles": None,
            "tile_margin": None,
            "place": "off",
        }
        found = {
            name: getattr(self, name)
            for name, usual in plain.items()
            if getattr(self, name) != usual
        }
        return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}

    @property
    def searches_a_layer(self) -> int:
        """How often a layer is searched: once for each degree, or once for all."""
        return 1 if self.degree_fusion == "features" else len(self.degrees)

    def search(self, grid: tuple[int, int], on_progress: Progress | None = None) -> SearchOptions:
        """The part of the settings that the search of patches on this grid takes."""
        window = self.window(grid)
        return SearchOptions(self.precision, self.memory_limit, on_progress, window)

    @property
    def reach(self) -> int | None:
        """How far from their own place patches are compared; None: with whole images."""
        return None if isinstance(self.place, str) else self.place

    def window(self, grid: tuple[int, int]) -> Window | None:
        """The window of a search on this grid; None: whole images.

        Raises InputError where nobody has decided what "auto" is.
        """
        if self.place == "auto":
            raise InputError('place: "auto" is decided before the search; give a number or "off"')
        return None if self.reach is None else Window(grid, self.reach)


def check_degrees(degrees: Sequence[int]) -> None:
    """Raise InputError unless degrees are odd positive whole numbers, at least one."""
    if not _whole(degrees) or any(degree % 2 == 0 for degree in degrees):
        raise InputError(f"degrees: found {_shown(degrees)}, wanted odd positive whole numbers")


def check_topmin(topmin: tuple[float, float]) -> None:
    """Raise InputError unless topmin is two finite bounds of 0 or more."""
    if (
        not isinstance(topmin, Sequence)
        or len(topmin) != 2
        or not all(
            isinstance(b, int | float | np.integer | np.floating)
            and not isinstance(b, bool)
            and 0 <= b <= 1e18
            for b in topmin
        )
    ):
        raise InputError(f"topmin: found {topmin}, wanted two bounds of 0 or more")


def check_neighbors(neighbors: Sequence[int]) -> None:
    """Raise InputError unless neighbors are positive whole numbers, at least one."""
    if not _whole(neighbors):
        raise InputError(f"neighbors: found {_shown(neighbors)}, wanted positive whole numbers")


def check_backend_name(backend: str) -> None:
    """Raise InputError unless backend is a string; whether it names one is for `resolve`."""
    if not isinstance(backend, str):
        raise InputError(f'backend: found {backend!r}, wanted "auto" or the name of a backend')


def check_precision(precision: str) -> None:
    """Raise InputError unless precision is one of PRECISIONS."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise InputError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")


def check_memory_limit(memory_limit: int | None) -> None:
    """Raise InputError unless memory_limit is None or whole bytes, 1 or more."""
    if memory_limit is not None and not _is_whole(memory_limit, 1):
        raise InputError(f"memory_limit: found {memory_limit!r}, wanted whole bytes, 1 or more")


def check_degree_fusion(fusion: str) -> None:
    """Raise InputError unless fusion is one of DEGREE_FUSIONS."""
    check_one_of("degree_fusion", fusion, DEGREE_FUSIONS)


def check_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Raise InputError unless a value is one of the words `known`."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name}: found {value!r}, wanted one of {', '.join(known)}")


def check_temperature(temperature: float, pooling: str) -> None:
    """Raise InputError unless temperature is a number above 0, and 1 where nothing uses it."""
    number = isinstance(temperature, int | float | np.number) and not isinstance(temperature, bool)
    if not number or not 0 < temperature < math.inf:
        raise InputError(f"temperature: found {temperature!r}, wanted a number above 0")
    if pooling == "lnamd" and temperature != 1:
        raise InputError(
            "temperature: has no say with pooling lnamd; give pooling snamd or snamd-unit, or "
            "leave it out"
        )


def check_similarity(use_cls: bool | None, similarity: Similarity) -> None:
    """Raise InputError where class tokens are asked for and would be idle."""
    if use_cls and similarity == "salient":
        raise InputError(
            "use_cls: class tokens (RsCIN, --rscin) have no say with similarity salient, which "
            "smooths scores by the most anomalous patches; leave one of them out"
        )


def check_place(place: Place) -> None:
    """Raise InputError unless place is "off", "auto" or a whole number from 0 on."""
    named = isinstance(place, str) and place in ("off", "auto")
    if not named and not _is_whole(place, 0, 1 << 30):
        raise InputError(
            f'place: found {place!r}, wanted "off", "auto" or a number of places, 0 or more'
        )


def check_switch(name: str, value: str) -> None:
    """Raise InputError unless value is one of SWITCHES."""
    if not isinstance(value, str) or value not in SWITCHES:
        raise InputError(f"{name}: found {value!r}, wanted one of {', '.join(SWITCHES)}")


def checked_align(align: str) -> Align:
    """How images are aligned; InputError unless it is one of ALIGNS."""
    for known in ALIGNS:
        if isinstance(align, str) and align == known:
            return known
    raise InputError(f"align: found {align!r}, wanted one of {', '.join(ALIGNS)}")


def checked_tiles(tiles: object) -> tuple[int, int] | None:
    """Rows and columns of tiles as ints, None for one tile; InputError unless they are such."""
    if tiles is None:
        return None
    if not isinstance(tiles, Sequence) or len(tiles) != 2 or not _whole(tiles):
        raise InputError(f"tiles: found {tiles!r}, wanted (rows, columns), 1 or more each")
    rows, columns = int(tiles[0]), int(tiles[1])
    return None if rows * columns == 1 else (rows, columns)


def check_max_references(count: int | None) -> None:
    """Raise InputError unless count is None or a whole number from 1 on."""
    if count is not None and not _is_whole(count, 1):
        raise InputError(f"max_references: found {count!r}, wanted a whole number, 1 or more")


def whole_number(name: str, value: object, least: int, most: int = 1 << 62) -> int:
    """`value` as an int; InputError naming the argument unless it is whole, `least` to `most`."""
    if not _is_whole(value, least, most):
        most_told = "" if most == 1 << 62 else f", at most {most}"
        raise InputError(
            f"{name}: found {value!r}, wanted a whole number, {least} or more{most_told}"
        )
    return int(value)  # type: ignore[call-overload, no-any-return]


def _is_whole(value: object, least: int, most: int = 1 << 62) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and least <= value <= most  # type: ignore[operator]


def _set_whole(settings: object, name: str) -> None:
    """Make a NumPy integer of a frozen dataclass an int."""
    value = getattr(settings, name)
    if value is not None:
        object.__setattr__(settings, name, int(value))


def _whole(values: object) -> bool:
    """Whether `values` is a non-empty sequence of whole numbers from 1 on."""
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str | bytes)
        and len(values) > 0
        and all(_is_whole(value, 1) for value in values)
    )


def _shown(values: object) -> object:
    return list(values) if isinstance(values, Sequence) else values


DEFAULT_OPTIONS = SearchOptions()
