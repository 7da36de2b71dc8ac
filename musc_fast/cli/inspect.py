"""`musc-fast backbones` and `musc-fast info`: what there is to work with."""

from __future__ import annotations

import platform

from rich.table import Table
from rich.text import Text

from .._version import __version__
from ..errors import BackendError
from .console import console, errors, named, print_plain


def backbones() -> None:
    """List the backbones, and where their weights come from."""
    from ..features import available_backbones

    for entry in available_backbones():
        spec = entry.spec
        size = "x".join(map(str, spec.default_size or ())) or "their own size"
        blocks = ",".join(map(str, spec.blocks or ())) or "at the quarters"
        console.print(f"[bold]{spec.name}[/]  {size}, blocks {blocks}", highlight=False)
        print_plain(f"  {spec.description}")
        for source in entry.sources:
            mark = ("at hand", "green") if source.at_hand else ("network", "dim")
            line = Text.assemble("  ", mark, "  ", named(source.detail))
            console.print(line, highlight=False, soft_wrap=True)
    print_plain(
        "Also any open_clip ViT as open_clip:NAME/PRETRAINED and any timm ViT as timm:NAME; "
        "--weights FILE takes a local file for any of them."
    )


def info() -> None:
    """Show versions, devices, engines and backends, and why one cannot be used."""
    _print_versions()
    _print_engines()
    _print_backends()


def _print_versions() -> None:
    from importlib import metadata

    import torch

    table = Table(title=f"musc_fast {__version__}", show_header=False)
    table.add_row("Python", platform.python_version())
    for package in ("torch", "openvino", "triton", "open_clip_torch", "timm", "numpy"):
        try:
            table.add_row(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            table.add_row(package, "[yellow]not installed[/]")
    table.add_row("CPU", f"{platform.machine()}, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        table.add_row(
            f"cuda:{index}",
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"sm_{properties.major}{properties.minor}",
        )
    console.print(table)


def _devices() -> list[str]:
    import torch

    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def _print_engines() -> None:
    import torch

    from ..features.engines import ENGINES, resolve_engine
    from ..features.precision import resolve_precision

    devices = _devices()
    table = Table(title="Engines of the backbone")
    for heading in ("name", "what", *devices):
        table.add_column(heading, overflow="fold")
    for engine in ENGINES:
        states = []
        for device in devices:
            precision = resolve_precision("auto", torch.device(device), rotary=False)
            first = resolve_engine("auto", device).name == engine.name
            usable = f"usable, chosen by auto, in {precision}" if first else "usable"
            states.append(engine.why_not(device) or usable)
        table.add_row(engine.name, engine.summary, *states)
    console.print(table)


def _print_backends() -> None:
    import torch

    from ..backends.registry import BACKENDS, resolve

    devices = _devices()
    chosen, problems = {}, []
    for device in devices:
        try:
            chosen[device] = resolve("auto", device).name
        except BackendError as error:  # a wrong MUSC_FAST_BACKEND
            problems.append(f"auto on {device}: {error}")
    table = Table(title="Backends")
    for heading in ("name", "what", *devices):
        table.add_column(heading, overflow="fold")
    for backend in BACKENDS:
        states = []
        for device in devices:
            reason = backend.why_not(torch.device(device))
            first = chosen.get(device) == backend.name
            states.append(reason or ("usable, chosen by auto" if first else "usable"))
        table.add_row(backend.name, backend.summary, *map(named, states))
    console.print(table)
    for problem in problems:
        errors.print(named(problem), highlight=False, style="yellow")
