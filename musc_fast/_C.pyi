from torch import Tensor

PANEL: int
LANES: int
SEGMENT_UNIT: int
MAX_SEGMENT: int
BOUNDS: int
FINE_UNIT: int
REST_UNIT: int

class InstructionSet:
    @property
    def elements(self) -> int: ...
    @property
    def tile_unit(self) -> bool: ...

class SearchSpace:
    def __init__(self, **values: Tensor | float | None) -> None: ...

class RoundedImages:
    def __init__(self, **values: Tensor | int | None) -> None: ...

class SearchShape:
    def __init__(self, **values: float) -> None: ...

class Summaries:
    def __init__(self, *, data: Tensor, first: int, columns: int) -> None: ...

class Counters:
    def __init__(self) -> None: ...
    @property
    def examined(self) -> int: ...
    @property
    def scanned(self) -> int: ...
    @property
    def recomputed(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def fine(self) -> int: ...
    @property
    def rest(self) -> int: ...

def instruction_sets() -> dict[str, InstructionSet]: ...
def words_of(isa: str, channels: int) -> int: ...
def summary_bytes(rows: int, segments: int) -> int: ...
def advise_huge_pages(tensor: Tensor) -> None: ...
def interval_mean(**arguments: Tensor | int) -> None: ...
def lnamd(
    *, isa: str, degrees: list[int], out: list[Tensor], **arguments: Tensor | int
) -> None: ...
def quantise(*, isa: str, space: SearchSpace, images: RoundedImages, **arguments: int) -> None: ...
def multiply(*, isa: str, **arguments: Tensor | int) -> None: ...
def search_pairs(
    *,
    isa: str,
    queries: RoundedImages,
    references: RoundedImages,
    shape: SearchShape,
    best: Summaries,
    mirrored: Summaries,
    **arguments: Tensor | int,
) -> None: ...
def refine(
    *,
    isa: str,
    queries: RoundedImages,
    references: RoundedImages,
    shape: SearchShape,
    best: Summaries,
    counters: Counters,
    **arguments: Tensor | int | None,
) -> None: ...
def match_places(
    *,
    isa: str,
    queries: RoundedImages,
    references: RoundedImages,
    shape: SearchShape,
    **arguments: Tensor | float | None,
) -> int: ...
def match_directly(
    *, isa: str, images: int, others: int, channels: int, **arguments: Tensor | float | None
) -> None: ...
