"""`musc-fast evaluate`: accuracy on a labelled dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from ..recipes import DEFAULT_RECIPE
from ..shown import shown
from . import beyond, options
from .console import interruptible, load, print_place, print_plain, printing_to_errors, stages
from .tables import print_metrics

if TYPE_CHECKING:
    from ..datasets.layouts import Category
    from ..runs.finished import Result

# Options that decide where results go and what is said, not what they are.
_NOT_OF_RESULTS = ("out", "cache", "force", "json", "quiet", "verbose", "log_file")


def evaluate(
    context: typer.Context,
    root: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the dataset, or of one category.")
    ],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT", help="Layout: mvtec (also MPDD, LOCO, ...), visa, btad or folder."
        ),
    ] = "mvtec",
    category: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Category to evaluate; repeat for several. Default: all."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the results.")] = Path(
        "musc_fast_evaluation"
    ),
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Pixels as the official MuSc code (musc: masks shrunk to the maps) or as MVTec AD "
            "(mvtec: maps enlarged to the masks; its PRO).",
        ),
    ] = "musc",
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep features in this folder for later runs.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Redo finished categories.")] = False,
    json: options.JsonOption = None,
    white: options.WhiteOption = None,
    max_pixels: options.MaxPixelsOption = None,
    ignore: beyond.IgnoreOption = None,
    pooling: beyond.PoolingOption = "lnamd",
    temperature: beyond.TemperatureOption = 1.0,
    similarity: beyond.SimilarityOption = "class",
    backbone: options.BackboneOption = "dinov2-vit-s-14",
    size: options.SizeOption = "auto",
    tiles: beyond.TilesOption = None,
    tile_margin: beyond.TileMarginOption = None,
    weights: options.WeightsOption = None,
    offline: options.OfflineOption = False,
    engine: options.EngineOption = "auto",
    feature_precision: options.FeaturePrecisionOption = "auto",
    batch_size: options.BatchSizeOption = 4,
    recipe: options.RecipeOption = DEFAULT_RECIPE,
    degrees: options.DegreesOption = None,
    place: beyond.PlaceOption = "off",
    topmin: options.TopminOption = "0,0.3",
    neighbors: options.NeighborsOption = "1,2,3",
    rscin: options.RscinOption = None,
    copies: beyond.CopiesOption = None,
    repeats: beyond.RepeatsOption = "off",
    align: beyond.AlignOption = "off",
    precision: options.PrecisionOption = "exact",
    device: options.DeviceOption = "auto",
    backend: options.BackendOption = "auto",
    memory_limit: options.MemoryOption = None,
) -> None:
    """Measure accuracy on a labelled dataset: tables, report.html, results.json, results.csv.

    Each category is scored as one batch; labels are used afterwards alone. Run it again after an
    interruption: finished categories are kept as long as settings and files are the same.
    """
    from ..report.tables import check_json_target, write_json_lines
    from ..runs.finished import line_of

    if json not in (None, "-"):
        check_json_target(Path(json), out)
    with printing_to_errors() if json == "-" else nullcontext():
        results = _evaluate(context, root, dataset, category, out, protocol, cache, force)
    if json is not None:
        write_json_lines(None if json == "-" else Path(json), map(line_of, results))


def _evaluate(
    context: typer.Context,
    root: Path,
    dataset: str,
    category: list[str] | None,
    out: Path,
    protocol: str,
    cache: Path | None,
    force: bool,
) -> list[Result]:
    """The results of the categories, evaluated or as they are finished already; prints them."""
    from ..datasets.layouts import load_dataset, verify
    from ..runs.finished import command_key, read_finished, write_finished

    arguments = options.musc_arguments(context)
    if protocol not in ("musc", "mvtec"):
        raise InputError(f"--protocol: found {protocol!r}, wanted musc or mvtec")
    reading = options.reading(arguments)
    categories = load_dataset(dataset, root, category)
    key = command_key(
        {name: value for name, value in context.params.items() if name not in _NOT_OF_RESULTS},
        [
            *_files_of(categories),
            *(() if arguments["weights"] is None else (arguments["weights"],)),
            *(file for file in map(Path, context.params["ignore"] or ()) if file.is_file()),
        ],
    )
    finished = None if force else read_finished(out, key)
    if finished is not None:
        results, title = finished
        _print(results, title, [result["category"] for result in results], out)
        return results
    from ..report.folder import check_fillable
    from ..runs.evaluate import evaluate as run

    verify(categories, reading)
    for folder, name in ((out, "--out"), (cache, "--cache")):
        if folder is not None:
            check_fillable(folder, name)
    kept: list[str] = []
    with interruptible("finished categories are kept; run the same command again to go on"):
        musc = load(arguments)
        with stages() as on_progress:
            results = run(
                musc,
                categories,
                out,
                protocol="mvtec" if protocol == "mvtec" else "musc",
                cache=cache,
                force=force,
                on_kept=kept.append,
                progress=on_progress,
            )
    title = f"{arguments['backbone']} at {_sizes(results)}, {protocol} protocol"
    write_finished(out, key, results, title)
    _print(results, title, kept, out)
    return results


def _sizes(results: Sequence[Result]) -> str:
    """The sizes, and the tiles, that the categories were scored at: "392x392 and 616x252"."""
    found = []
    for result in results:
        text = "x".join(map(str, result["image_size"]))
        if result["tiles"]:
            text += f" in {'x'.join(map(str, result['tiles']))} tiles"
        found += [text] if text not in found else []
    return " and ".join(found)


def _files_of(categories: Sequence[Category]) -> Iterator[Path]:
    for category in categories:
        for sample in category.samples:
            yield sample.image
            yield from sample.mask_files


def _print(results: Sequence[Result], title: str, kept: Sequence[str], out: Path) -> None:
    if kept:
        print_plain(
            f"kept: {', '.join(map(shown, kept))}, finished earlier with the same settings and "
            "files (--force redoes them)"
        )
    print_metrics(results, title)
    print_place(out / "report.html")
