#!/usr/bin/env bash
# One pass in the GPU image, with everything taken away from the container that it does not need.
# Research use only. Not a medical device.
#
#   examples/docker-gpu/run.sh IN OUT [OPTION OF covct scan ...]
#
# Exit code: covct's own; 77 where there is no docker engine to run it (a test runner's "skipped"); 125 from docker.
# Settings: COVCT_IMAGE (covct:gpu), COVCT_GPUS (1; "device=0" picks one), COVCT_MEMORY (16g).
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: run.sh IN OUT [OPTION OF covct scan ...]" >&2; exit 2; }
input=$1
output=$2
shift 2
image=${COVCT_IMAGE:-covct:gpu}

if ! command -v docker >/dev/null; then
    echo "docker-gpu: no docker on this host, nothing was run" >&2
    exit 77
fi
if ! docker info >/dev/null 2>&1; then
    echo "docker-gpu: no docker engine answers on this host (docker info fails), nothing was run" >&2
    exit 77
fi
if ! docker image inspect "$image" >/dev/null 2>&1; then
    echo "docker-gpu: no image $image; build it: docker build -f docker/Dockerfile.gpu -t $image ." >&2
    exit 2
fi
for folder in "$input" "$output"; do
    # docker would make a missing folder, owned by root.
    [ -d "$folder" ] || { echo "docker-gpu: no such folder: $folder" >&2; exit 2; }
done

# The caller's uid owns the results. --require-gpu: a broken driver ends the pass, it does not slow it down unnoticed.
exec docker run --rm --init --pull never \
    --gpus "${COVCT_GPUS:-1}" \
    --user "$(id -u):$(id -g)" \
    --network none \
    --read-only \
    --tmpfs /tmp:rw,noexec,nosuid,nodev,size=2g,mode=1777 \
    --cap-drop ALL \
    --security-opt no-new-privileges \
    --pids-limit 1024 \
    --memory "${COVCT_MEMORY:-16g}" \
    --stop-timeout 120 \
    --mount "type=bind,source=$(realpath "$input"),target=/in,readonly" \
    --mount "type=bind,source=$(realpath "$output"),target=/out" \
    "$image" scan /in --out /out --require-gpu "$@"
