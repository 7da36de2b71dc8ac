"""Options that the commands share, and the reading of their values.

Every function that reads a text raises InputError naming the option.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import InputError
from ..settings import ReadSettings
from .exit_status import FLAGGED, LOOK

RULE_NAMES = ("auto", "tail", "split", "gap", "mad")  # as in `threshold`, whose import takes time
# The groups of options in the help, in the order in which a command names them first.
VERDICT, RESULTS, IMAGES = "Verdict", "Results", "Images"
BACKBONE, SCORING, MACHINE = "Backbone", "Scoring", "Machine"
BEYOND = "Beyond MuSc"

BackboneOption = Annotated[
    str,
    typer.Option(
        help="Backbone; `musc-fast backbones` lists them.",
        show_default=True,
        metavar="NAME",
        rich_help_panel=BACKBONE,
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        help="Side, or HEIGHT,WIDTH, to which images are squashed; a multiple of the patch. auto: "
        "the backbone's own, but in the shape of the images where they are far from square.",
        metavar="H,W",
        rich_help_panel=BACKBONE,
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        help="Images a forward pass of the backbone.", metavar="N", rich_help_panel=BACKBONE
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", metavar="NAME", rich_help_panel=MACHINE)
]
BackendOption = Annotated[
    str,
    typer.Option(
        help="Kernels to score with; `musc-fast info` lists them.",
        metavar="NAME",
        rich_help_panel=MACHINE,
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        help="Local weight file for the backbone.",
        show_default=False,
        metavar="FILE",
        rich_help_panel=BACKBONE,
    ),
]
OfflineOption = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Use no network: weights must be cached or local.",
        rich_help_panel=BACKBONE,
    ),
]
RecipeOption = Annotated[
    str,
    typer.Option(
        help="What is searched: one-search, two-searches, or paper, the official twelve searches.",
        metavar="NAME",
        rich_help_panel=SCORING,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        help="What computes the backbone: auto, openvino or torch; see `musc-fast info`.",
        metavar="NAME",
        rich_help_panel=BACKBONE,
    ),
]
FeaturePrecisionOption = Annotated[
    str,
    typer.Option(
        help="Precision of the backbone: auto, fp32 or bf16.",
        metavar="NAME",
        rich_help_panel=BACKBONE,
    ),
]
DegreesOption = Annotated[
    str | None,
    typer.Option(
        help="LNAMD neighbourhood sides, odd, as 1,3,5. Default: the recipe's.",
        show_default=False,
        metavar="N,N",
        rich_help_panel=SCORING,
    ),
]
TopminOption = Annotated[
    str,
    typer.Option(
        help="Share of most similar images that count (MSM); from 1 on, counts.",
        metavar="LOW,HIGH",
        rich_help_panel=SCORING,
    ),
]
NeighborsOption = Annotated[
    str,
    typer.Option(help="Neighbourhood sizes k of RsCIN.", metavar="K,K", rich_help_panel=SCORING),
]
RscinOption = Annotated[
    bool | None,
    typer.Option(
        "--rscin/--no-rscin",
        help="Smooth image scores over similar images, for which the whole backbone runs. "
        "Default: the recipe's.",
        show_default=False,
        rich_help_panel=SCORING,
    ),
]
PrecisionOption = Annotated[
    str, typer.Option(help="exact or fast.", metavar="NAME", rich_help_panel=SCORING)
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        help="Memory for scoring, as 4GB; default a share of what is free.",
        show_default=False,
        metavar="BYTES",
        rich_help_panel=MACHINE,
    ),
]
MaxReferencesOption = Annotated[
    int | None,
    typer.Option(
        help="Score each image against this many others only, drawn by content: for batches of "
        "thousands. Default: all others.",
        show_default=False,
        metavar="N",
        rich_help_panel=SCORING,
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        help="Flag images whose raw score is at least this. Default: those that stand apart.",
        show_default=False,
        metavar="SCORE",
        rich_help_panel=VERDICT,
    ),
]
DefectRateOption = Annotated[
    float | None,
    typer.Option(
        help="Flag this share of the batch, as 0.05, instead of those that stand apart.",
        show_default=False,
        metavar="SHARE",
        rich_help_panel=VERDICT,
    ),
]
FalseAlarmsOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="With --references, the share of good images that may be flagged (default 0.01); "
        "without, the share of all-good batches in which any may (default 0.1).",
        show_default=False,
        rich_help_panel=VERDICT,
    ),
]
RuleOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"How a batch without references is judged: {', '.join(RULE_NAMES)}.",
        show_default=False,
        rich_help_panel=VERDICT,
    ),
]
LookShareOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Share of a batch without references in which nothing is flagged that a person should "
        "look at (default 0.1); 0: those alone that stand apart somewhat.",
        show_default=False,
        rich_help_panel=VERDICT,
    ),
]
WhiteOption = Annotated[
    float | None,
    typer.Option(
        help="The value that is white in images of more than 8 bits, as 4095 for 12 bits. Default: "
        "what the files state, else 1023, 4095, 16383 or 65535, by the batch's largest value.",
        show_default=False,
        metavar="VALUE",
        rich_help_panel=IMAGES,
    ),
]
FailOption = Annotated[
    bool,
    typer.Option(
        "--fail-on-flagged",
        help=f"End with exit status {FLAGGED} where images are flagged, and with {LOOK} where none "
        "is but some cannot be decided on, or not be read.",
        rich_help_panel=VERDICT,
    ),
]
MaxPixelsOption = Annotated[
    str | None,
    typer.Option(
        help="Refuse images with more pixels, as 250M. Default: 179 million.",
        show_default=False,
        metavar="N",
        rich_help_panel=IMAGES,
    ),
]
JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write a JSON object a line to this file, for each image (evaluate: category); - "
        "for standard output, where what people read goes to standard error.",
        show_default=False,
        rich_help_panel=RESULTS,
    ),
]
MapScaleOption = Annotated[
    Literal["batch", "image"],
    typer.Option(
        help="Colours of the pictures: one scale for the batch, or for each image.",
        rich_help_panel=RESULTS,
    ),
]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def numbers(option: str, text: str) -> list[float]:
    """ "1,3,5" -> [1.0, 3.0, 5.0]."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: found {text!r}, wanted numbers with commas") from None


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """ "1,3,5" -> (1, 3, 5)."""
    values = numbers(option, text)
    if any(not value.is_integer() for value in values):
        raise InputError(f"{option}: found {text!r}, wanted whole numbers with commas")
    return tuple(int(value) for value in values)


def size(option: str, text: str) -> int | tuple[int, int] | Literal["auto"]:
    """ "392" -> 392, "392,784" -> (392, 784) as height, width; "auto" stays."""
    if text.strip() == "auto":
        return "auto"
    values = whole_numbers(option, text.replace("x", ","))
    if len(values) > 2 or min(values) < 1:
        raise InputError(f"{option}: found {text!r}, wanted one side or HEIGHT,WIDTH in pixels")
    return values[0] if len(values) == 1 else (values[0], values[1])


def tiles(option: str, text: str) -> tuple[int, int] | Literal["auto"]:
    """ "3x4" -> (3, 4) as rows, columns; "auto" stays."""
    if text.strip() == "auto":
        return "auto"
    match = re.fullmatch(r"\s*(\d{1,3})\s*[x,]\s*(\d{1,3})\s*", text)
    if match is None or not int(match[1]) * int(match[2]):
        raise InputError(f"{option}: found {text!r}, wanted auto or ROWSxCOLUMNS, as 3x4")
    return int(match[1]), int(match[2])


def pair(option: str, text: str) -> tuple[float, float]:
    """ "0,0.3" -> (0.0, 0.3)."""
    values = numbers(option, text)
    if len(values) != 2:
        raise InputError(f"{option}: found {text!r}, wanted two numbers, as 0,0.3")
    return values[0], values[1]


def place(option: str, text: str) -> int | str:
    """ "2" -> 2; "off" and "auto" stay."""
    if text in ("off", "auto"):
        return text
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{option}: found {text!r}, wanted off, auto or a number of patches")
    return int(text)


def byte_count(option: str, text: str) -> int:
    """ "4GB", "500 MiB", "1e9" -> bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d)?)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"{option}: found {text!r}, wanted a size as 4GB, 500MiB or bytes")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def count(option: str, text: str) -> int:
    """ "250M", "2.5e8" -> 250000000."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d)?)\s*([KMG])?\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"{option}: found {text!r}, wanted a number as 250M")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


_READERS: dict[str, Callable[[str, str], Any]] = {
    "size": size,
    "tiles": tiles,
    "degrees": whole_numbers,
    "topmin": pair,
    "neighbors": whole_numbers,
    "memory_limit": byte_count,
    "place": place,
    "max_pixels": count,
}
_ARGUMENTS = {"size": "image_size", "rscin": "use_cls"}  # where the names differ
_MUSC_OPTIONS = (
    "backbone",
    "size",
    "tiles",
    "tile_margin",
    "recipe",
    "degrees",
    "topmin",
    "neighbors",
    "rscin",
    "backend",
    "precision",
    "memory_limit",
    "max_references",
    "place",
    "copies",
    "repeats",
    "device",
    "engine",
    "feature_precision",
    "batch_size",
    "weights",
    "offline",
    "white",
    "max_pixels",
    "align",
    "ignore",
    "pooling",
    "temperature",
    "similarity",
)


def reading(arguments: dict[str, Any]) -> ReadSettings:
    """How images are read, by the arguments of `musc_arguments`."""
    return ReadSettings(arguments["white"], arguments["max_pixels"] or ReadSettings.max_pixels)


def musc_arguments(context: typer.Context) -> dict[str, Any]:
    """The arguments of `MuSc` from the options of a command; those it does not have are left out.

    A command declares the options as parameters, for Typer; their values are read from `context`.
    """
    arguments = {}
    for name in _MUSC_OPTIONS:
        if name in context.params:
            value = context.params[name]
            if value is not None and name in _READERS:
                value = _READERS[name](f"--{name.replace('_', '-')}", value)
            arguments[_ARGUMENTS.get(name, name)] = value
    return arguments
