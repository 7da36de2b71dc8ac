"""The page that a watch keeps up: after each image, over an end and a new start, when it fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny import TINY, product_folder, tiny_weights
from watched import aged, rows, run, untimed

from musc_fast import InputError, MuSc, MuscFastWarning
from musc_fast.report import line_page
from musc_fast.runs import watch_page
from musc_fast.runs.watch import WatchSettings, watching


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def musc(weights: Path) -> MuSc:
    return MuSc(TINY, weights=weights, image_size=96)


def word(page: Path) -> str:
    found = re.search(r'class="verdict">.*?</svg>\s*([A-Z ]+)</p>', page.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def names(page: Path, section: str) -> list[str]:
    text = page.read_text(encoding="utf-8").split(f'class="{section}"')[1].split("</section>")[0]
    return re.findall(r'class="name">([^<]*)<', text)


def test_every_image_is_on_the_page_as_soon_as_it_is_recorded(musc: MuSc, tmp_path: Path) -> None:
    folder, page = tmp_path / "images", tmp_path / "page.html"
    paths = aged(product_folder(folder, count=8, defective=6))
    paths[5].write_bytes(b"no image")
    aged(paths)
    settings = WatchSettings(start=4, threshold=0.45, page=page)
    words = {"clear": "CLEAR", "flagged": "FLAGGED", "": "UNREADABLE"}
    with watching(musc, folder, tmp_path / "bank", tmp_path / "scores.csv", settings) as watched:
        assert word(page) == "WAITING"
        seen = 0
        for row in watched.score(watched.look(settled=True)):
            seen += 1
            name = Path(row.path).name
            if seen >= 4:  # those of the start are recorded together
                assert word(page) == words[row.verdict]
                assert names(page, "recent")[0] == name
    assert seen == 8
    assert word(page) == "WATCH ENDED"
    text = page.read_text(encoding="utf-8")
    assert "It was asked to end." in text
    assert names(page, "alarms") == ["part6.png"]
    assert re.findall(r"<b>(\d)</b> (\w+)", text) == [
        ("1", "flagged"),
        ("0", "look"),
        ("6", "clear"),
        ("1", "unreadable"),
    ]
    assert len(re.findall(r'<(?:circle|rect|path) class="(?:clear|flagged|look)"', text)) == 7
    plain = tmp_path / "plain"  # without a page the record is the same
    plain.mkdir()
    run(musc, folder, plain / "bank", WatchSettings(start=4, threshold=0.45), last=False)
    assert untimed(plain / "scores.csv") == untimed(tmp_path / "scores.csv")


def test_references_that_are_found_again_are_counted_once(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference has no place among the counts until it is found to be a defect."""
    folder, good, page = tmp_path / "images", tmp_path / "good", tmp_path / "page.html"
    folder.mkdir()
    paths = aged(product_folder(good, count=20, defective=2))
    for path in paths[4:]:
        path.rename(folder / path.name)
    monkeypatch.chdir(tmp_path)
    references = tuple(Path("good", path.name) for path in paths[:4])
    settings = WatchSettings(references=references, page=page)
    run(musc, folder, tmp_path / "bank", settings)
    found = {row["path"]: row for row in rows(tmp_path / "scores.csv")}  # the last of each
    assert {path for path in found if Path(path).parent == good} == {str(p) for p in paths[:4]}
    assert found[str(paths[2])]["bank"] == "removed"
    said = [row["verdict"] for row in found.values() if row["bank"] != "reference"]
    assert len(said) == 17
    counts = re.findall(r"<b>(-?\d+)</b> (\w+)", page.read_text(encoding="utf-8"))
    assert {word: int(number) for number, word in counts} == {
        "flagged": said.count("flagged"),
        "look": said.count("look"),
        "clear": said.count("clear"),
        "unreadable": 0,
    }


def test_a_new_start_shows_what_the_record_tells(musc: MuSc, tmp_path: Path) -> None:
    folder, page = tmp_path / "images", tmp_path / "page.html"
    aged(product_folder(folder, count=6))
    run(musc, folder, tmp_path / "bank", WatchSettings(start=3, threshold=0.45))
    settings = WatchSettings(start=3, threshold=0.45, page=page)
    with watching(musc, folder, tmp_path / "bank", tmp_path / "scores.csv", settings):
        assert word(page) == "CLEAR"
        assert names(page, "recent") == [f"part{k}.png" for k in (5, 4, 3, 2, 1, 0)]
        assert names(page, "alarms") == ["part4.png"]
        assert "before this watch" in page.read_text()


def test_the_page_tells_that_the_watch_goes_on_and_how_it_ended(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, page = tmp_path / "images", tmp_path / "page.html"
    aged(product_folder(folder, count=3))
    bank, record = tmp_path / "bank", tmp_path / "scores.csv"
    settings = WatchSettings(start=2, page=page)

    def watch() -> None:
        with watching(musc, folder, bank, record, settings) as watched:
            page.unlink()
            watched.idle()
            assert not page.exists()
            monkeypatch.setattr(watch_page, "BEAT", 0.0)
            watched.idle()
            assert word(page) == "WAITING"
            raise RuntimeError("<the camera> burnt down")

    with pytest.raises(RuntimeError):
        watch()
    assert word(page) == "WATCH ENDED"
    assert "By an error: &lt;the camera&gt; burnt down" in page.read_text()


def test_a_page_that_cannot_be_written_is_said_once_and_does_not_end_the_watch(
    musc: MuSc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    aged(product_folder(folder, count=5))
    settings = WatchSettings(start=2, page=tmp_path / "page.html")

    def failing(path: Path, state: line_page.LineState) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(watch_page, "write_line_page", failing)
    with pytest.warns(MuscFastWarning, match=r"page\.html cannot be written") as said:
        assert len(run(musc, folder, tmp_path / "bank", settings)) == 5
    assert len(said) == 1


def test_files_that_are_no_page_are_not_written_over(musc: MuSc, tmp_path: Path) -> None:
    folder, page = tmp_path / "images", tmp_path / "page.html"
    product_folder(folder, count=3)
    bank, record = tmp_path / "bank", tmp_path / "scores.csv"
    page.write_text("<html>my own</html>")
    with (
        pytest.raises(InputError, match=r"page\.html exists and is no page of a watch"),
        watching(musc, folder, bank, record, WatchSettings(page=page)),
    ):
        pass
    assert page.read_text() == "<html>my own</html>"
    with (
        pytest.raises(InputError, match="one file twice"),
        watching(musc, folder, bank, record, WatchSettings(page=tmp_path / "x" / ".." / "bank")),
    ):
        pass
