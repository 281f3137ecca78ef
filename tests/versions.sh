#!/usr/bin/env bash
# Run the runtime's tests, without torch, with the oldest and the newest packages that may be installed:
#   bash tests/versions.sh [3.11-oldest] [3.12-newest] [3.13-newest]
# When a bound in pyproject.toml changes, tests/oldest.txt is made anew:
#   bash tests/versions.sh --pin
# When a dependency, constraints.txt or packaging/tools.in changes, the locked environments are, too:
#   bash tests/versions.sh --lock
# $SCBIGNN_TESTS names some test files instead of all.
# Environments are kept in $SCBIGNN_VENVS, by default .venv-versions. uv makes them; pip installs uv.
set -euo pipefail
cd "$(dirname "$0")/.."
venvs=${SCBIGNN_VENVS:-.venv-versions}
extras=(--extra distributed --extra excel --extra hub --extra parquet --extra report --extra serve --extra sign --extra zarr)
# These tests build, document or run in other programs, and need more than the runtime.
ignored=(--ignore tests/training)
for part in docker docs_build notebooks packaging wheel workflows; do
  ignored+=(--ignore "tests/test_$part.py")
done

# Beside the environments, whose files are links to it; without them it would only fill the disk.
mkdir -p "$venvs"
UV_CACHE_DIR=$(mktemp -d "$(realpath "$venvs")/fetched.XXXXXX")
export UV_CACHE_DIR
trap 'rm -rf "$UV_CACHE_DIR"' EXIT
uv() { "$venvs/uv/bin/uv" --quiet --no-config "$@"; }

# Print the path of a Python on PATH, or of pyenv, whose own command runs only one version.
python_of() {
  local name=python$1 path
  for path in "$(command -v "$name" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*"/bin/$name"; do
    if [ -x "$path" ] && "$path" -c '' 2>/dev/null; then echo "$path" && return; fi
  done
  echo "no Python $1 was found; install it, or put $name on PATH" >&2
  return 1
}

if [ ! -x "$venvs/uv/bin/uv" ]; then
  "$(python_of 3.11)" -m venv "$venvs/uv"
  "$venvs/uv/bin/python" -m pip install --quiet uv
fi
if [ "${1:-}" = --pin ]; then
  uv pip compile --upgrade --python-version 3.11 --resolution lowest-direct --no-build --no-annotate --no-header \
    --output-file tests/oldest.txt pyproject.toml "${extras[@]}" tests/versions.in >/dev/null
  exit
fi

# Write what is installed with checksums: that of the tests, and that of packaging/check.sh. PyTorch is
# left out, with what only its CUDA build brings: its builds differ from machine to machine.
if [ "${1:-}" = --lock ]; then
  compile=(uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header)
  "${compile[@]}" --constraint constraints.txt --extra training --group dev --no-emit-package torch pyproject.toml |
    awk '/^[^ ]/ { kept = !/^(cuda|nvidia|triton)[-=]/ } kept' > tests/locked.txt
  "${compile[@]}" packaging/tools.in > packaging/tools.txt
  exit
fi

[ $# -gt 0 ] || set -- 3.11-oldest 3.12-newest 3.13-newest
failed=()
for name in "$@"; do
  echo "== Python $name"
  python=$venvs/$name/bin/python
  uv venv --allow-existing --python "$(python_of "${name%-*}")" "$venvs/$name"
  if [ "${name#*-}" = oldest ]; then
    uv pip sync --python "$python" --no-build tests/oldest.txt
  else
    uv pip install --python "$python" --no-build --upgrade --requirements pyproject.toml "${extras[@]}" \
      --requirements tests/versions.in
  fi
  uv pip install --python "$python" --no-deps --editable .  # its metadata; the code is that of PYTHONPATH
  uv pip check --python "$python"  # what is installed meets the bounds of all
  SCBIGNN_VERSIONS=${name#*-} PYTHONPATH=$PWD:$PWD/training "$python" -m pytest --numprocesses "${SCBIGNN_TESTS_AT_ONCE:-auto}" \
    --dist loadfile --quiet -p no:cacheprovider ${SCBIGNN_TESTS:-tests} \
    "${ignored[@]}" || failed+=("$name")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
