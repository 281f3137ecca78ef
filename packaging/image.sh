#!/usr/bin/env bash
# Build the image on a base image that is named by its digest, and say the digest of both:
#   bash packaging/image.sh [cpu|gpu]
# Needs docker with the plugin buildx, and a network. The digest of an image is known only to its
# registry: write what this prints into the notes of the release.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-cpu}
base=$(sed -n 's/^ARG BASE=//p' Dockerfile)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' scbignn_infer/__init__.py)
digest=$(docker buildx imagetools inspect "$base" --format '{{.Manifest.Digest}}')
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "$base: no digest but '$digest'" >&2; exit 1; }
docker buildx build --load --build-arg "BASE=$base@$digest" --build-arg "DEVICE=$device" \
  --build-arg "SOURCE_DATE_EPOCH=$(git log -1 --pretty=%ct)" --tag "scbignn-infer:$version" .
echo "base  $base@$digest"
echo "image $(docker image inspect "scbignn-infer:$version" --format '{{.Id}}')"
