#!/usr/bin/env bash
# safetensors 0.4.3 (Python package, with NumPy): a file that holds metadata and no tensor can be
# written but not read. `save_file({}, path, metadata=...)` returns without a complaint, and
# `safe_open` on that file raises SafetensorError (InvalidHeaderDeserialization). 0.5.0 reads it.
#
# Why it matters here: a reference bank that has no image yet is such a file. With the older
# version it is lost as soon as it is saved, and the error speaks of a damaged header.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/try.py" <<'PY'
import sys
import safetensors
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

save_file({}, sys.argv[1], metadata={"key": "value"})
try:
    with safe_open(sys.argv[1], framework="np") as stored:
        result = f"reads {list(stored.keys())} and {stored.metadata()}"
except SafetensorError as error:
    result = f"refuses its own file: {error}"
print(f"safetensors {safetensors.__version__} {result}")
sys.exit(("refuses" in result) != (sys.argv[2] == "refuses"))
PY
for wanted in 0.4.3:refuses 0.5.0:reads; do
  "$folder/venv/bin/pip" install --quiet "safetensors==${wanted%%:*}" numpy==1.26.4
  "$folder/venv/bin/python" "$folder/try.py" "$folder/empty.safetensors" "${wanted##*:}"
done
