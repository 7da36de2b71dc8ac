"""The verdicts of gpu_check.py: measured figures beside their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MINUTES = 6.0


@dataclass(frozen=True)
class Verdict:
    """A figure beside its limit; a figure that is missing does not pass."""

    what: str
    value: float | None
    limit: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.3g}"
        sign = ">=" if self.at_least else "<="
        verdict = "PASS" if self.passed else "FAIL"
        return f"{verdict} {self.what} {value} ({sign} {self.limit:g})"


def verdicts(rows: list[dict[str, Any]], device: str, minutes: float) -> list[Verdict]:
    """The verdicts on the measured rows; seconds of whole jobs have limits on an H100 alone."""
    named = {row["what"]: row for row in rows}

    def figure(what: str, key: str) -> float | None:
        return named.get(what, {}).get(key)

    def ratio(slow: str, fast: str) -> float | None:
        numerator, denominator = figure(slow, "seconds"), figure(fast, "seconds")
        return None if numerator is None or denominator is None else numerator / denominator

    found = [
        Verdict(f"{row['what']}: share of the product", row["of_product"], 0.75)
        for row in rows
        if row["what"].startswith("search, ") and "float16" in row["what"] and row.get("usual")
    ] or [Verdict("16-bit search: share of the product", None, 0.75)]
    for precision in ("exact", "fast"):
        times = ratio(f"msm, torch {precision}", f"msm, triton {precision}")
        found.append(Verdict(f"msm {precision}: times as fast as unfused", times, 1.5))
    found += [
        Verdict(f"{what}: share of the copy", figure(what, "of_copy"), 0.8)
        for what in ("LNAMD, 3 degrees", "interval mean, [N, P, M]", "interval mean, [N, M, P]")
    ]
    peak = figure("peak memory of msm", "of_plan")
    off = None if peak is None else abs(peak - 1)
    found.append(Verdict("peak memory: off the plan by", off, 0.05, at_least=False))
    if "H100" in device:
        for precision, limit in (("exact", 1.0), ("fast", 3.0)):
            seconds = figure(f"score_batch, {precision}", "seconds")
            found.append(Verdict(f"score_batch {precision}: seconds", seconds, limit, False))
        what = "one image against a bank"
        found.append(Verdict(f"{what}: seconds", figure(what, "seconds"), 0.03, False))
    return [*found, Verdict("this check: minutes", minutes, MINUTES, at_least=False)]


def official_ratio(rows: list[dict[str, Any]]) -> float | None:
    """Time a pair of images of the official mutual scoring, divided by that of exact Triton."""
    key = "microseconds_a_pair"
    pair: dict[str, float] = {row["what"]: row[key] for row in rows if key in row}
    official = pair.get("msm, official (cdist)")
    ours = pair.get("large msm, triton exact", pair.get("msm, triton exact"))
    return None if official is None or ours is None else official / ours
