"""Options of the stages beyond MuSc, which the commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .options import BEYOND

CopiesOption = Annotated[
    Literal["off", "auto"] | None,
    typer.Option(
        help="auto: a picture that is there twice, exactly or saved again, is not compared with "
        "its copy, which would hide its defects. Default: auto; off for the recipe paper.",
        show_default=False,
        rich_help_panel=BEYOND,
    ),
]
RepeatsOption = Annotated[
    Literal["off", "auto"],
    typer.Option(
        help="auto: also find a defect that up to half of the images have at the same place, as "
        "from one worn tool; takes longer.",
        rich_help_panel=BEYOND,
    ),
]
WatchRepeatsOption = Annotated[
    Literal["off", "auto"] | None,
    typer.Option(
        help="auto: also find a defect that many images of the bank share, and take them out of "
        "it. Default: as the bank was made, else off.",
        show_default=False,
        rich_help_panel=BEYOND,
    ),
]
PoolingOption = Annotated[
    str,
    typer.Option(
        help="How a patch is pooled with its neighbours: lnamd, evenly (MuSc); snamd, by likeness "
        "(MuSc-V2), which leaves each patch alone on most backbones; snamd-unit, by likeness of "
        "features of norm 1.",
        metavar="NAME",
        rich_help_panel=BEYOND,
    ),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        help="With --pooling snamd or snamd-unit: the distance at which a neighbour counts 1/e; "
        "smaller is stricter.",
        metavar="T",
        rich_help_panel=BEYOND,
    ),
]
SimilarityOption = Annotated[
    str,
    typer.Option(
        help="By what image scores are smoothed over similar images: class, the class token where "
        "--rscin does it (MuSc); salient, the most anomalous patch (RsCon of MuSc-V2, which takes "
        "--neighbors 1,7).",
        metavar="NAME",
        rich_help_panel=BEYOND,
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave this part of every picture out, such as a date code: a mask image, as large as "
        "a picture or of its proportions, of which what is not black is left out; or a box "
        "x,y,w,h% in percent of the picture from its left upper corner, as 0,0,25,10%. Repeat for "
        "several. A patch more than a quarter of which is left out is not scored, no image is "
        "compared with it, and it is hatched in the pictures.",
        show_default=False,
        metavar="FILE|BOX",
        rich_help_panel=BEYOND,
    ),
]
AlignOption = Annotated[
    str,
    typer.Option(
        help="For parts that shift or turn a little under the camera: bring every image onto one "
        "of them before comparing. off; rigid: by shift and turn; similarity: by scale, too; auto: "
        "by shift and turn, where the images show one outline. Maps lie on the images as given.",
        metavar="HOW",
        rich_help_panel=BEYOND,
    ),
]
TilesOption = Annotated[
    str | None,
    typer.Option(
        help="Look closer at large images with small defects: cut each into ROWSxCOLS tiles, as "
        "3x4, with the backbone run on every tile, and compare the same places alone. auto: tiles "
        "where images are large enough. As many times slower as there are tiles. Default: none.",
        show_default=False,
        metavar="RxC",
        rich_help_panel=BEYOND,
    ),
]
TileMarginOption = Annotated[
    int | None,
    typer.Option(
        help="With --tiles: how many patches off its own place a patch may find its like, for "
        "parts that do not lie still. Default: a quarter of a tile.",
        show_default=False,
        metavar="N",
        rich_help_panel=BEYOND,
    ),
]
PlaceOption = Annotated[
    str,
    typer.Option(
        help="For parts that lie still in the picture: compare each spot with the other images' "
        "spots at most this many patches away. off: with the whole picture. auto: by a few images, "
        "where it costs little.",
        metavar="off|auto|N",
        rich_help_panel=BEYOND,
    ),
]
