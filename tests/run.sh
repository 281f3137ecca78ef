#!/usr/bin/env bash
# Set up an environment in .venv and run all checks: linters, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[training]' --group dev
# What the JavaScript of docs/share.md needs; without it one test is skipped, and says so.
if command -v npm >/dev/null; then
  npm ci --ignore-scripts --silent --prefix tests/javascript || echo "npm cannot fetch onnxruntime-web" >&2
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Files side by side, one a core; a file stays together, since its tests share what they have labelled.
.venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
