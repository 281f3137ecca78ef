#!/usr/bin/env bash
# Build the release twice, compare the bytes, and look at it as the index and the registries do:
#   bash packaging/check.sh [FOLDER]
# FOLDER, by default build/release, gets sdist, wheel, bill of materials and checksums. Tools are those
# of packaging/tools.txt, in .venv-packaging. $SCBIGNN_PYTHON has the package installed.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/release}
python=${SCBIGNN_PYTHON:-.venv/bin/python}
tools=$PWD/.venv-packaging/bin
[ -x "$tools/python" ] || python3 -m venv .venv-packaging
"$tools/python" -m pip install --quiet --require-hashes --no-deps --requirement packaging/tools.txt

# The same files give the same bytes, whatever the folder, umask, time zone and language.
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git log -1 --pretty=%ct)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build() { # FOLDER
  mkdir -p "$1"
  git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$1" --
  (cd "$1" && "$tools/python" -m build --no-isolation --outdir "$1/dist" . > "$1.log" 2>&1) ||
    { cat "$1.log" >&2; return 1; }
}
(umask 022; TZ=UTC build "$work/first")
(umask 077; TZ=Asia/Tokyo LC_ALL=C.UTF-8 build "$work/another folder")
(cd "$work/first/dist" && sha256sum ./*) > "$work/sums"
(cd "$work/another folder/dist" && sha256sum --check --quiet "$work/sums")
echo "sdist and wheel: the same bytes twice"

rm -rf "$out"
mkdir -p "$out"
cp "$work/first/dist/"* "$out"
wheel=$(echo "$out"/*.whl)
[ "$(wc -c < "$wheel")" -le 60000000 ] || { echo "$wheel has more than 60 MB" >&2; exit 1; }
"$tools/twine" check --strict "$out"/*
"$tools/check-wheel-contents" "$wheel"

# The addresses are made up: the owner gives the true ones.
"$python" packaging/sbom.py --wheel "$wheel" -o "${wheel%-py3*}.cdx.json"
"$python" packaging/render.py --home https://example.org/home --docs https://example.org/docs \
  --contact example --sdist-url https://example.org/sdist.tar.gz --sdist "$out"/*.tar.gz -o "$work/registries"
"$tools/cffconvert" --validate -i "$work/registries/CITATION.cff"
"$tools/python" packaging/lint.py "$work/registries"
(cd "$out" && sha256sum ./* > SHA256SUMS && cat SHA256SUMS)
