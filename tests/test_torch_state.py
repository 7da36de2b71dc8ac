"""No setting of torch changes a bit: default dtype and device, autocast, threads.

The cases run in a child process: a fault here would write behind a block of the heap.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_weights

from musc_fast.features.engines import ENGINES

ROOT = Path(__file__).resolve().parents[1]
STATES = """
import contextlib
import torch

torch.set_num_threads(1)  # many small operations


@contextlib.contextmanager
def state(name):
    if name.startswith("autocast"):
        with torch.autocast("cpu", dtype=getattr(torch, name.split()[1])):
            yield
    elif name == "meta":
        with torch.device("meta"):
            yield
    else:
        torch.set_default_dtype(getattr(torch, name))
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


NAMES = "float16 bfloat16 float64 meta autocast_bfloat16 autocast_float16".split()
NAMES = ["float32", *(name.replace("_", " ") for name in NAMES)]
"""
CORE = """
import hashlib, sys, tempfile
import numpy as np
import torch
from musc_fast import ReferenceBank, ops, score_batch
from musc_fast.neighbors import batched_zero_shot, dual_image, few_shot, top_mean

generator = torch.Generator().manual_seed(0)
z = torch.randn(8, 49, 96, generator=generator) * torch.arange(1, 97).pow(-0.7)
wide = torch.randn(5, 36, 40, generator=generator, dtype=torch.float64)
classes = torch.randn(8, 12, generator=generator)


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return len(z)

    def __getitem__(self, index):
        return z.detach()[index].numpy()


def digest(*results):
    found = hashlib.sha256()
    for each in results:
        found.update(f"{each.dtype}{list(each.shape)}{each.device}".encode())
        found.update(each.detach().numpy().tobytes())
    return found.hexdigest()[:16]


def core(backend):
    own = {"backend": backend}
    scores = score_batch(z, cls_tokens=classes, image_size=20, **own)
    print("batch", digest(scores.patch_scores, scores.anomaly_maps, scores.image_scores))
    print("some", digest(score_batch([z, z[..., :48]], max_references=3, **own).image_scores))
    print("others", digest(score_batch(wide[:1], references=wide[1:], **own).image_scores))
    fused = score_batch(z, degree_fusion="features", **own)
    print("fused", digest(fused.patch_scores, fused.image_scores))
    print("dataset", digest(score_batch(Tokens(), **own).image_scores))
    with tempfile.TemporaryDirectory() as folder:
        np.save(folder + "/z.npy", z.detach().numpy())
        stored = score_batch(folder + "/z.npy", checkpoint=folder + "/c", **own)
        again = score_batch(folder + "/z.npy", checkpoint=folder + "/c", **own)
        print("files", digest(stored.image_scores, again.image_scores))
        fused = score_batch(folder + "/z.npy", degree_fusion="features", **own)
        print("fused files", digest(fused.image_scores))
    bank = ReferenceBank(6, evict="anomalous", **own)
    bank.add(z[:6])
    print("bank", digest(*(bank.score_and_add(z[k:k + 1]).image_scores for k in (6, 7))))
    print("lnamd", digest(*ops.lnamd_all(z, (7, 7), (1, 3), **own)))
    print("distances", digest(ops.patch_to_image(z, **own), ops.msm(z, z[:3].clone(), **own)))
    print("between", digest(*ops.between(z[:3], z[3:], **own)))
    print("nearest", digest(*ops.nearest_images(z, k=3, **own)[:2]))
    parts = [(0, 3), (3, 8)]
    print("parts", digest(*ops.msm_parts(z, parts, **own)))
    print("few", digest(few_shot(z, z[:2].clone(), **own), dual_image(z, z.roll(1, 0), **own)))
    print("fast", digest(ops.msm(z, precision="fast", **own)))


for name in NAMES:
    with state(name):
        for backend in ("cpu", "torch", "reference"):
            core(backend)
        print("zero", digest(batched_zero_shot(z), top_mean(batched_zero_shot(z))))
    print("end of", name)
"""
BACKBONE = """
import hashlib, os, sys
from PIL import Image
from musc_fast.features import load_backbone

image = Image.linear_gradient("L").convert("RGB")
for name in NAMES:
    os.environ["XDG_CACHE_HOME"] = os.path.join(sys.argv[1], name)  # no converted model is there
    with state(name):
        backbone = load_backbone(
            "timm:test_vit",
            weights=sys.argv[2],
            engine=sys.argv[3],
            feature_precision="fp32",
        )
        found = backbone.extract(torch.stack([backbone.preprocess(image)]))
        assert all(each.dtype == torch.float32 for each in (*found.tokens, found.cls_tokens))
    print(hashlib.sha256(b"".join(each.numpy().tobytes() for each in found.tokens)).hexdigest())
    print("end of", name)
"""


def by_state(code: str, *arguments: str) -> dict[str, str]:
    """What the code printed in each state."""
    done = subprocess.run(
        [sys.executable, "-c", STATES + code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    blocks = re.findall(r"(.*?)end of ([^\n]+)\n", done.stdout, flags=re.DOTALL)
    return {name: printed for printed, name in blocks}


def test_every_way_to_score_gives_the_same_bits() -> None:
    found = by_state(CORE)
    assert len(found) == 7
    for state, printed in found.items():
        assert printed == found["float32"], state


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_backbone_is_loaded_and_run_in_float32(tmp_path: Path, engine: str) -> None:
    reason = next(each for each in ENGINES if each.name == engine).why_not("cpu")
    if reason is not None:
        pytest.skip(reason)
    found = by_state(BACKBONE, str(tmp_path), str(tiny_weights(tmp_path)), engine)
    assert len(found) == 7
    assert len(set(found.values())) == 1, found


# Constructors of torch that take the default dtype or device where none is stated.
MAKERS = "arange empty eye from_file full linspace ones rand randint randn randperm tensor zeros"


def test_every_new_tensor_states_its_dtype_and_device() -> None:
    missing = []
    for path in sorted(set((ROOT / "musc_fast").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = ast.unparse(node.func)
            if not re.fullmatch(rf"torch\.({'|'.join(MAKERS.split())})", name):
                continue
            stated = {keyword.arg for keyword in node.keywords}
            place = {"device", "pin_memory"} & stated  # pinned memory lies on the host
            if "dtype" not in stated or not place:
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not missing
