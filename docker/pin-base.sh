#!/usr/bin/env bash
# Pin the base image by the digest that its tag has today: pin-base.sh DOCKERFILE ...
set -euo pipefail
tag=$(sed -n 's/^ARG BASE=\([^@]*\).*/\1/p' "$1")
digest=$(docker buildx imagetools inspect "$tag" --format '{{.Manifest.Digest}}')
[[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "$tag: got no digest but '$digest'" >&2; exit 1; }
sed -i "s|^ARG BASE=.*|ARG BASE=$tag@$digest|" "$@"
echo "$tag@$digest"
