#!/usr/bin/env bash
# torch 2.14.1: torch.save cannot write to a name whose only dot is its first, as ".result": it ends
# in "RuntimeError: ... invalid file name". The archive inside the file is named after what stands
# before the last dot, which is nothing there. ".result.pt" works, and so does an open file.
#
# Why it matters here: who writes aside and renames, so that a cut leaves no half file, often puts a
# dot before the name; a target without a suffix then fails, and only it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
  python3 -m venv "$folder/venv"
  PYTHON="$folder/venv/bin/python"
  "$PYTHON" -m pip install --quiet "torch==2.14.1" "numpy==2.2.6"
fi
cd "$folder"
"$PYTHON" -W ignore - <<'PY'
import sys

import torch

written = {}
for name in (".result", ".result.pt", "result"):
    try:
        torch.save(torch.ones(2), name)
        written[name] = True
    except RuntimeError as error:
        assert "invalid file name" in str(error), error
        written[name] = False
with open(".other", "wb") as file:
    torch.save(torch.ones(2), file)
print(f"torch {torch.__version__}: written by name {written}, and to an open file")
sys.exit(written != {".result": False, ".result.pt": True, "result": True})
PY
