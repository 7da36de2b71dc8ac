"""The tables of docs/verdict.md, made of the rows that verdicts.py counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scipy.stats import beta

NAMES = {
    "mpdd_metal_plate": "metal plates",
    "kolektorsdd": "commutators",
    "sample": "drawn parts",
    "boards": "drawn boards",
}
COUNTS = (10, 15, 20, 30, 48)
Row = dict[str, Any]
Rows = list[Row]


def markdown(results: Rows) -> str:
    """All tables, with what they are of."""
    return "\n\n".join(
        (
            "All-good batches:",
            _all_good(results),
            "One defect, no references:",
            _one_defect(results),
            "Several defects, no references:",
            _several(results),
            "References:",
            _references(results),
        )
    )


def interval(found: int, of: int) -> tuple[float, float]:
    """The 95% interval of a share, by Clopper and Pearson."""
    low = float(beta.ppf(0.025, found, of - found + 1)) if found else 0.0
    high = float(beta.ppf(0.975, found + 1, of - found)) if found < of else 1.0
    return low, high


def _all_good(results: Rows) -> str:
    rows = []
    for name, backbone in _groups(results):
        for references in (0, 10, 20):
            cells = _chosen(results, name, backbone, references, lambda row: not row["defective"])
            if not cells:
                continue
            batches, images = _sum(cells, "batches"), _images(cells)
            flagged = _sum(cells, "any_flagged")
            low, high = interval(flagged, batches)
            rows.append(
                (
                    *(NAMES.get(name, name), backbone, references, batches),
                    f"{_share(flagged, batches, 1)}% ({100 * low:.0f} to {100 * high:.0f})",
                    f"{_share(_sum(cells, 'good_flagged'), images, 1)}%",
                    f"{_share(_sum(cells, 'good_look'), images, 1)}%",
                    f"{_share(_sum(cells, 'any_look'), batches, 0)}%",
                )
            )
    head = "set|backbone|references|batches|any flag|good flagged|good to look at|batches with look"
    return _table(head.split("|"), rows)


def _one_defect(results: Rows) -> str:
    rows = []
    for name, backbone in _groups(results):
        cells = _chosen(results, name, backbone, 0, lambda row: row["defective"] == 1)
        by_count = [[row for row in cells if row["images"] == count] for count in COUNTS]
        rows.append((NAMES.get(name, name), backbone, *(_found(each) for each in by_count)))
    single = [row for row in results if row["defective"] == 1 and not row["references"]]
    every = [[row for row in single if row["images"] == count] for count in COUNTS]
    rows.append(("**all**", "", *(_found(each) for each in every)))
    large = [row for row in single if row["images"] >= 30]
    told = f"\n\nN >= 30, all: {_found(large)} of {_sum(large, 'batches')}"
    return _table(["set", "backbone", *map(str, COUNTS)], rows) + told


def _several(results: Rows) -> str:
    rows = []
    for name, backbone in _groups(results):
        found = []
        for count in (20, 30):
            for defects in (2, 5):

                def wanted(row: Row, of: tuple[int, int] = (count, defects)) -> bool:
                    return (row["images"], row["defective"]) == of

                found.append(_found(_chosen(results, name, backbone, 0, wanted)))
        rows.append((NAMES.get(name, name), backbone, *found))
    return _table(["set", "backbone", "20, 2", "20, 5", "30, 2", "30, 5"], rows)


def _references(results: Rows) -> str:
    rows = []
    for name, backbone in _groups(results):
        found = []
        for references in (10, 20):
            cells = _chosen(results, name, backbone, references, lambda row: row["defective"] > 0)
            good = _images(cells) - sum(row["defective"] * row["batches"] for row in cells)
            shares = (_share(_sum(cells, key), good, 1) for key in ("good_flagged", "good_look"))
            found.append(f"{_found(cells)}; {' + '.join(shares)}" if cells else "")
        rows.append((NAMES.get(name, name), backbone, *found))
    return _table(["set", "backbone", "10 references", "20 references"], rows)


def _found(cells: Rows) -> str:
    """Per cent of the defects: before > by scores alone > flagged + look."""
    if not cells:
        return ""
    bad = sum(row["defective"] * row["batches"] for row in cells)
    keys = ("defects_flagged_before", "defects_flagged_scores", "defects_flagged", "defects_look")
    before, scores, flagged, look = (_share(_sum(cells, key), bad, 0) for key in keys)
    return f"{before} > {scores} > {flagged} + {look}"


def _groups(results: Rows) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["set"], row["backbone"]) for row in results))


def _chosen(
    results: Rows, name: str, backbone: str, references: int, wanted: Callable[[Row], bool]
) -> Rows:
    own = [row for row in results if (row["set"], row["backbone"]) == (name, backbone)]
    return [row for row in own if row["references"] == references and wanted(row)]


def _sum(cells: Rows, key: str) -> int:
    return sum(int(row[key]) for row in cells)


def _images(cells: Rows) -> int:
    return sum(int(row["images"] * row["batches"]) for row in cells)


def _share(part: int, whole: int, digits: int) -> str:
    return f"{100 * part / whole:.{digits}f}" if whole else ""


def _table(head: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ["---"] * len(head), *([str(each) for each in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
