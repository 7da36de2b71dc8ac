"""What is said, and recorded, of copies and repeats."""

from __future__ import annotations

import torch

from musc_fast.scoring.copies import Copy
from musc_fast.scoring.findings import record, sentences
from musc_fast.scoring.repeats import Repeat
from musc_fast.scoring.scores import BatchScores

NAMES = [f"part{k}.png" for k in range(9)]
GOOD = ["good/a.png", "good/b.png"]


def scores(copies: tuple[Copy, ...] = (), repeats: tuple[Repeat, ...] = ()) -> BatchScores:
    maps = torch.zeros(9, 4, 5)
    return BatchScores(maps, maps, maps[:, 0, 0], maps[:, 0, 0], copies=copies, repeats=repeats)


def test_nothing_found_is_nothing_said() -> None:
    assert sentences(scores(), NAMES) == ()
    assert record(scores(), NAMES) == {"found_copies": [], "found_repeats": []}


def test_each_kind_has_a_sentence_with_names() -> None:
    found = scores(
        (
            Copy(1, 0, "references", True),
            Copy(3, 0, "image of reference", False),
            *(Copy(k, 2, "images", True) for k in range(3, 9)),
        ),
        (Repeat((0, 4), (6, 7, 11), 1.0),),
    )
    said = sentences(found, NAMES, GOOD)
    assert len(said) == 4
    assert said[0].startswith("part3.png = part2.png, part4.png = part2.png, ")
    assert "part7.png = part2.png and 1 more: there twice" in said[0]
    assert said[1].startswith("good/b.png = good/a.png: references")
    assert said[2].startswith("part3.png = good/a.png: also among the references")
    assert said[3].startswith("part0.png, part4.png: these 2 images share")


def test_the_record_has_names_and_the_place_in_the_picture() -> None:
    found = scores((Copy(3, 1, "image of reference", False),), (Repeat((0, 4), (6, 7, 11), 1.0),))
    assert record(found, NAMES, GOOD) == {
        "found_copies": [{"image": "part3.png", "of": "good/b.png", "exact": False}],
        "found_repeats": [{"images": ["part0.png", "part4.png"], "box": [0.2, 0.25, 0.6, 0.75]}],
    }
