"""Values that one may really give: taken rightly, or refused by an error that names them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY, product, tiny_weights
from typer.testing import CliRunner

from musc_fast import BankError, MuSc, MuscFastError, ReferenceBank, ops, score_batch
from musc_fast.bank import file as bank_file
from musc_fast.cli.app import app
from musc_fast.features.weights.find import read_state_file
from musc_fast.neighbors import batched_zero_shot, dual_image, few_shot, top_mean
from musc_fast.runs.watch import WatchSettings
from musc_fast.settings import ScoringSettings, SearchOptions

Z = torch.randn(4, 16, 8, generator=torch.Generator().manual_seed(0))
EXPECTED = score_batch(Z).image_scores
NAN, INF = float("nan"), float("inf")
ODD: list[Any] = [
    None, True, 0, -1, 1.5, NAN, INF, 10**20, "1", "", b"1", (), (1,), [1, 3], range(1, 3), {},
    {1: 2}, np.int64(1), np.float32(0.5), np.array([1]), np.array([1, 3]), np.array(1),
    torch.tensor(1), object(), Z, Path("x"), lambda *_: 1,
]  # fmt: skip
CALLS: dict[str, Callable[[Any], object]] = {
    **{
        name: lambda value, name=name: score_batch(Z, **{name: value})  # type: ignore[misc]
        for name in (
            *("cls_tokens", "references", "grid", "prefix_tokens", "image_size", "degrees"),
            *("topmin", "neighbors", "backend", "precision", "memory_limit", "max_references"),
            *("degree_fusion", "place", "copies", "repeats", "progress", "tiles", "tile_margin"),
        )
    },
    "tokens": score_batch,
    "layers": lambda value: score_batch([Z, value]),
    "z": ops.msm,
    "k": lambda value: ops.nearest_images(Z, k=value),
    "topmin of msm": lambda value: ops.msm(Z, None, value),
    "progress of msm": lambda value: ops.msm(Z, progress=value),
    "grid of lnamd": lambda value: ops.lnamd(Z, value, 1),
    "degree": lambda value: ops.lnamd(Z, (4, 4), value),
    "distances": ops.interval_mean,
    "scores": lambda value: ops.rscin(value, Z[:, 0]),
    "cls": lambda value: ops.rscin(Z[:, 0, 0], value),
    "few_shot": lambda value: few_shot(value, Z),
    "distance": lambda value: few_shot(Z, Z, distance=value),
    "dual": lambda value: dual_image(Z, value),
    "share": lambda value: batched_zero_shot(Z, share=value),
    "top_mean": top_mean,
    "top share": lambda value: top_mean(Z[:, :, 0], value),
    "capacity": ReferenceBank,
    "fusion of a bank": lambda value: ReferenceBank(4, degree_fusion=value),
    "evict": lambda value: ReferenceBank(4, evict=value),
    "source": lambda value: ReferenceBank(4, source=value),
    "ids": lambda value: ReferenceBank(4).add(Z, value),
    "bank scores": lambda value: ReferenceBank(4).add(Z, scores=value),
    "bank tokens": lambda value: ReferenceBank(4).add(value),
    "kept": lambda value: ops.KeptReferences(2, 16, value),
    "kept image": lambda value: ops.KeptReferences(2, 16, 8).put(0, value),
    "options": lambda value: SearchOptions(memory_limit=value),
    "settings": lambda value: ScoringSettings(degrees=value),
    "start": lambda value: WatchSettings(start=value),
    "threshold": lambda value: WatchSettings(threshold=value),
}


@pytest.mark.parametrize("name", CALLS)
def test_odd_values_are_taken_or_refused_by_us(name: str) -> None:
    raw = []
    for value in ODD:
        try:
            CALLS[name](value)
        except MuscFastError:
            pass
        except Exception as error:
            raw.append(f"{value!r}"[:60] + f": {type(error).__name__}: {error}"[:200])
    assert not raw, "\n".join(raw)


def same(tokens: Any, **how: Any) -> bool:
    return bool((score_batch(tokens, **how).image_scores - EXPECTED).abs().max() < 1e-5)


class Bfloat16(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return len(Z)

    def __getitem__(self, index: int) -> torch.Tensor:
        return Z[index].bfloat16()


def test_unusual_tokens_are_read_rightly(tmp_path: Path) -> None:
    array = Z.numpy()
    assert same(array.astype(">f4"))
    assert same(array.astype(">f8"))
    assert same(array.astype(np.longdouble))
    assert same(np.ma.masked_array(array))
    assert same(array[::-1][::-1])
    assert same(Z, prefix_tokens=np.int64(0), memory_limit=np.int64(1 << 30))
    bfloat16 = score_batch(Z.bfloat16()).image_scores
    assert torch.equal(score_batch(Bfloat16()).image_scores, bfloat16)
    assert torch.equal(
        score_batch(Z, topmin=range(0, 2)).image_scores,
        score_batch(Z, topmin=(0, 1)).image_scores,
    )


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (Z.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (Z.to_sparse(), "sparse"),
        (torch.nested.nested_tensor(list(Z)), "sparse or nested"),
        (Z.to("meta"), "device meta"),
        (Z.to(torch.complex64), "complex64"),
        (Z.int(), "int32"),
        (np.ma.masked_greater(Z.numpy(), 0.5), "masked"),
        (np.array([[["a"]]]), "array of <U1"),
        (np.zeros((2, 4, 3), object), "array of object"),
        (Z.numpy().astype(np.float16).view(np.uint16), "uint16"),
        (Z * 1e16, "no value may be larger"),
        (Z.double() * 1e200, "no value may be larger"),
    ],
)
def test_tokens_that_cannot_be_scored_are_named(tokens: Any, told: str) -> None:
    with pytest.raises(MuscFastError, match=told):
        score_batch(tokens)
    if isinstance(tokens, torch.Tensor):
        with pytest.raises(MuscFastError, match=told):
            ops.msm(tokens)


@pytest.mark.parametrize("cut", [0, 1, 6, 9, 20, 60, 127, 128, 130])
def test_a_cut_npy_file_is_refused(tmp_path: Path, cut: int) -> None:
    np.save(tmp_path / "z.npy", Z.numpy())
    data = (tmp_path / "z.npy").read_bytes()
    (tmp_path / "z.npy").write_bytes(data[:cut])
    with pytest.raises(MuscFastError, match=r"z\.npy cannot be read as tokens"):
        score_batch(tmp_path / "z.npy")


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e-13, 1.0, 1e19, 1e25, 1e37, 1e200])
def test_cosine_scores_do_not_depend_on_the_scale(scale: float) -> None:
    dtype = torch.float64 if not 1e-38 < scale < 1e38 else torch.float32
    z = Z.to(dtype) * scale
    wanted = few_shot(Z[:2], Z[2:])
    for backend in ("cpu", "torch", "reference"):
        assert torch.allclose(few_shot(z[:2], z[2:], backend=backend), wanted, atol=1e-6)
    assert torch.allclose(batched_zero_shot(z), batched_zero_shot(Z), atol=1e-6)
    scores = torch.rand(4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ops.rscin(scores, z[:, 0]), ops.rscin(scores, Z[:, 0]), atol=1e-6)


@pytest.mark.parametrize("scale", [1e16, 1e19, 1e30, 1e38, 1e300])
def test_values_beyond_the_search_are_refused_by_image(scale: float) -> None:
    z = Z.double()
    z[2] *= scale
    for backend, call in itertools.product(
        ("cpu", "torch", "reference"), (ops.msm, ops.patch_to_image, few_shot_euclidean)
    ):
        with pytest.raises(MuscFastError, match=r"z: image 2 holds .*; no value may be larger"):
            call(z, backend=backend)
    with pytest.raises(MuscFastError, match=r"tokens: image 2 holds"):
        ops.lnamd(z, (4, 4), 3)


def few_shot_euclidean(z: torch.Tensor, backend: str) -> torch.Tensor:
    return few_shot(z, Z.double(), distance="euclidean", backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_interval_means_of_no_distances_are_refused(backend: str) -> None:
    for wrong in ([-1e30, 1, 2, 3], [1, 2, 3, 1e38], [-1, 1, 1, 1]):
        with pytest.raises(MuscFastError, match="distances: found"):
            ops.interval_mean(torch.tensor([[wrong]], dtype=torch.float32), backend=backend)
    far = torch.tensor([[[1e29, 2.0, 1.0, 0.0]]])
    assert float(ops.interval_mean(far, (1, 3), backend=backend)) == 1.5


def test_banks_with_a_right_checksum_and_odd_contents_are_refused(tmp_path: Path) -> None:
    bank = ReferenceBank(4)
    bank.add(Z[:2], scores=[1.0, 2.0])
    path = tmp_path / "bank.safetensors"

    def written(change: Callable[[dict[str, Any]], object], tokens: list[torch.Tensor]) -> Path:
        about = {
            "settings": bank.settings(),
            "entries": [[e.id, e.score, e.number] for e in bank.entries],
            "added": 2,
        }
        about = json.loads(json.dumps(about))
        changed = change(about)
        contents = json.dumps(about if changed is None else changed)
        metadata = {
            "musc_fast_bank": "1",
            "about": contents,
            "sha256": bank_file._checksum(contents, tokens),
        }
        save_file({f"tokens.{k}": t for k, t in enumerate(tokens)}, path, metadata=metadata)
        return path

    tokens = bank.tokens()
    assert ReferenceBank.load(written(lambda about: None, tokens)).ids == bank.ids
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda about: [],
        lambda about: "text",
        lambda about: about.pop("added") and None,
        lambda about: about.pop("settings") and None,
        lambda about: about.update(entries=7),
        lambda about: about.update(entries=[["a"]]),
        lambda about: about.update(entries=[["a", NAN, 0], ["b", 1.0, 1]]),
        lambda about: about.update(entries=[["a", "x", 0], ["b", 1.0, 1]]),
        lambda about: about.update(entries=[[7, 1.0, 0], ["b", 1.0, 1]]),
        lambda about: about.update(entries=[["a", 1.0, 0], ["b", 1.0, 0]]),
        lambda about: about.update(entries=[["a", 1.0, 0]]),
        lambda about: about.update(added="2"),
        lambda about: about.update(added=1),
        lambda about: about["settings"].update(capacity=1),
        lambda about: about["settings"].update(capacity="many"),
        lambda about: about["settings"].update(evict="none"),
        lambda about: about["settings"].update(degrees=[2]),
        lambda about: about["settings"].update(stranger=1),
        lambda about: about["settings"].pop("source") and None,
        lambda about: about["settings"].update(source=5),
    ]
    for change in changes:
        with pytest.raises(BankError, match=r"bank\.safetensors"):
            ReferenceBank.load(written(change, tokens), source={"a": 1})
        changed = written(change, tokens)
        if change not in changes[-2:]:  # without a source none is compared
            with pytest.raises(BankError, match=r"bank\.safetensors"):
                ReferenceBank.load(changed)


@pytest.mark.parametrize("data", [b"", b"text", b"\x80\x04", b"PK\x03\x04", b"\0" * 64, b"{}"])
def test_weights_that_are_something_else_are_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("weights.pt", "weights.txt", "weights.safetensors"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MuscFastError, match=name):
            read_state_file(tmp_path / name)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for k in range(3):
        Image.fromarray(product(k)).save(tmp_path / f"{k}.png")
    return tmp_path


WATCH = ["watch", ".", "--bank", "b.safetensors", "--once"]
SCORE = ["score", ".", "--out", "out"]


@pytest.mark.parametrize(
    "command",
    [
        [*WATCH, "--interval", "inf"],
        [*WATCH, "--interval", "nan"],
        [*WATCH, "--threshold", "nan"],
        ["watch", ".", "--bank", "", "--once"],
        ["watch", ".", "--bank", "..", "--once"],
        [*WATCH, "--out", ""],
        [*WATCH, "--out", "."],
        [*SCORE, "--batch-size", "12345678901234567890"],
        [*SCORE, "--batch-size", "0"],
        [*SCORE, "--threshold", "nan"],
        [*SCORE, "--backbone", "timm:../../x"],
        [*SCORE, "--backbone", "timm:/etc/passwd"],
        [*SCORE, "--backbone", "timm:a\nb"],
        [*SCORE, "--backbone", "open_clip:../x/y"],
        [*SCORE, "--backbone", ""],
        [*SCORE, "--weights", "0.png"],
        [*SCORE, "--size", "16,1e9"],
        [*SCORE, "--size", "inf"],
        [*SCORE, "--topmin", "nan,1"],
        [*SCORE, "--degrees", "1e400"],
        [*SCORE, "--memory-limit", "0"],
        [*SCORE, "--device", "tpu"],
        [*SCORE, "--engine", "tpu"],
        [*SCORE, "--feature-precision", "fp8"],
        [*SCORE, "--recipe", ""],
    ],
)
def test_commands_refuse_in_one_line(photos: Path, command: list[str]) -> None:
    weights = tiny_weights(photos)
    options = [] if "--backbone" in command else ["--backbone", TINY]
    options += [] if "--weights" in command else ["--weights", str(weights)]
    done = CliRunner().invoke(app, [*command, *options, "--offline"])
    assert done.exit_code != 0
    fine = isinstance(done.exception, MuscFastError | SystemExit)
    assert fine, f"{done.exception!r} {done.output[-500:]}"
    assert not os.path.exists("out")


def test_odd_images_are_taken_or_refused_by_us(tmp_path: Path) -> None:
    musc = MuSc(TINY, weights=tiny_weights(tmp_path), image_size=64)
    plain = product(0)
    unit = torch.from_numpy(plain).permute(2, 0, 1) / 255
    found = musc.extract([plain, unit, unit.double(), unit.bfloat16()]).tokens[0]
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.equal(found[1], found[2])
    odd = [
        *ODD,
        np.ma.masked_greater(plain, 100),
        unit.to_sparse(),
        unit.to("meta"),
        unit.to(torch.complex64),
        plain.astype(np.longdouble),
        np.array([["a"]]),
        np.zeros((0, 4), np.uint8),
    ]
    raw = []
    for image in odd:
        try:
            musc.extract([plain, image])
        except MuscFastError:
            pass
        except Exception as error:
            raw.append(f"{image!r}"[:60] + f": {type(error).__name__}: {error}"[:200])
    assert not raw, "\n".join(raw)


def test_odd_arguments_of_a_backbone_are_taken_or_refused_by_us(tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path)
    raw = []
    for name in ("recipe", "engine", "feature_precision", "blocks", "degree_fusion", "degrees"):
        for value in (*ODD, [3, 3], [-1], range(2), np.array([1, 3])):
            try:
                musc = MuSc(TINY, weights=weights, image_size=64, **{name: value})
                assert all(type(block) is int for block in musc.backbone.blocks)
            except MuscFastError:
                pass
            except Exception as error:
                raw.append(f"{name}: {value!r}"[:60] + f": {type(error).__name__}: {error}"[:200])
    assert not raw, "\n".join(raw)


def test_progress_that_is_no_function_is_refused_before_the_work(tmp_path: Path) -> None:
    musc = MuSc(TINY, weights=tiny_weights(tmp_path), image_size=64)
    for wrong in (7, "yes", [1]):
        with pytest.raises(MuscFastError, match="progress: found"):
            musc.score([product(0), product(1)], progress=wrong)  # type: ignore[arg-type]
