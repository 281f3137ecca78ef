#!/usr/bin/env bash
# Set up an environment in .venv and run all checks: linters, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade "pip>=25.1"
.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[training]' --group dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Files side by side, one a core; a file stays together, since its tests share what they have labelled.
.venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
