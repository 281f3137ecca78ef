#!/usr/bin/env bash
# Set up an environment in .venv and run all checks: linters, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
# Each file has a checksum in tests/locked.txt, but that of PyTorch, whose builds differ by device.
.venv/bin/python -m pip install --quiet --require-hashes --no-deps --requirement tests/locked.txt
.venv/bin/python -m pip install --quiet --constraint constraints.txt torch
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
.venv/bin/python -m pip check
# What the JavaScript of docs/share.md needs; without it one test is skipped, and says so.
if command -v npm >/dev/null; then
  npm ci --ignore-scripts --silent --prefix tests/javascript || echo "npm cannot fetch onnxruntime-web" >&2
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Files side by side, one a core; a file stays together, since its tests share what they have labelled.
.venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
