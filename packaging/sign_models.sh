#!/usr/bin/env bash
# Sign the shipped models with the publisher's private key, and put the public key into the package:
#   bash packaging/sign_models.sh KEY
# Make a key once, and keep it outside the repository, where nobody else can read it:
#   openssl ecparam -name prime256v1 -genkey -noout -out my.key
# Sign again after each change of a file in exported_models. Needs the extra "sign" and openssl.
set -euo pipefail
key=$(realpath "$1")
cd "$(dirname "$0")/.."
case $key in "$PWD"/*) echo "$key lies in the repository: a private key must never be committed" >&2; exit 1 ;; esac
public=scbignn_infer/sharing/publisher.pub
openssl pkey -in "$key" -pubout -out "$public.new"
for model in exported_models/*/; do
  scbignn-infer models sign "./${model%/}" --key "$key" --overwrite
  scbignn-infer models verify "./${model%/}" --key "$public.new"
done
mv "$public.new" "$public"
echo "commit $public and exported_models/*/model.sig"
