#!/usr/bin/env bash
# Pack shipped models for Hugging Face's hub, each with its card:
#   bash packaging/hub.sh FOLDER [MODEL]...
# FOLDER/MODEL is then uploaded as a repository of the hub; "models install hf://OWNER/MODEL" takes it.
set -euo pipefail
folder=$1
shift
[ $# -gt 0 ] || set -- "$(dirname "$0")"/../exported_models/*/
for model in "$@"; do
  name=$(basename "$model")
  mkdir -p "$folder/$name"
  scbignn-infer models pack "$name" -o "$folder/$name/$name.scbignn.zip" --card "$folder/$name/README.md"
done
