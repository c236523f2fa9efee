#!/usr/bin/env bash
# Build the image on a host that has neither a docker engine nor a registry, and run it on a phantom: an ordinary scan,
# then as each platform starts it, read-only, without network and capabilities.
#
#   apt-get install buildah debootstrap
#   docker/build-with-buildah.sh
#
# Debian bookworm (its python3 is 3.11) is bootstrapped from the host's own Debian mirror and stands in for the
# Dockerfile's BASE. Run it as root. It needs about 8 GB under COVCT_BUILD_DIR while it runs (the GPU image 30 GB), and removes it.
#
# Settings, all optional, from the environment:
#   COVCT_BUILD_DIR    where everything is made                    /var/tmp/covct-buildah
#   COVCT_DOCKERFILE   docker/Dockerfile, or with .slim or .gpu    docker/Dockerfile
#   COVCT_TAG          name of the image                           covct:cpu (covct:slim, covct:gpu for the others)
#   COVCT_MIRROR       Debian mirror                               the one apt uses, else debootstrap's own
#   COVCT_RUN_UID      the uid that runs the image                 24680, which no passwd file knows
#   COVCT_RUN          0 builds only                               1
#   COVCT_SAVE         write the image there (docker load reads it)  not written
#   COVCT_KEEP         1 keeps COVCT_BUILD_DIR                     0
# pip inside the build uses the host's pip settings (index-url, extra-index-url, trusted-host, certificate). They are
# handed over as secrets, so that none of them ends in a layer.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dockerfile=${COVCT_DOCKERFILE:-docker/Dockerfile}
case $dockerfile in *.gpu) device=gpu ;; *.slim) device=slim ;; *) device=cpu ;; esac
tag=${COVCT_TAG:-covct:$device}
work=${COVCT_BUILD_DIR:-/var/tmp/covct-buildah}
uid=${COVCT_RUN_UID:-24680}
base=localhost/covct-base:bookworm

say() { printf '%s\n' "build-with-buildah: $*"; }
fail() { printf '%s\n' "build-with-buildah: $*" >&2; exit 1; }

for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install buildah debootstrap"
done
[ "$(id -u)" = 0 ] || fail "debootstrap needs root"
[ -f "$root/$dockerfile" ] || fail "no such file: $root/$dockerfile"
# The clean-up below removes this folder, so it must be one that this script made.
if [ -e "$work" ] && [ ! -e "$work/.covct-buildah" ]; then
    fail "$work exists and was not made by this script: choose another COVCT_BUILD_DIR or remove it"
fi
mkdir -p "$work"
touch "$work/.covct-buildah"

# chroot isolation and vfs need neither user namespaces, overlay mounts nor a container runtime.
b() { buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

clean_up() {
    status=$?
    rm -rf "$work/secrets"
    if [ "${COVCT_KEEP:-0}" = 1 ]; then
        say "kept $work"
    else
        b rm --all >/dev/null 2>&1 || true
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}
trap clean_up EXIT

# The base image.
apt_mirror() {
    apt-get indextargets --format "\$(REPO_URI) \$(CODENAME)" 2>/dev/null | awk '$2 == "bookworm" { print $1; exit }'
}

if ! b images --quiet "$base" 2>/dev/null | grep -q .; then
    start=$SECONDS
    mirror=${COVCT_MIRROR:-$(apt_mirror || true)}
    rm -rf "$work/rootfs"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$work/rootfs" \
        ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 ||
        { tail -20 "$work/debootstrap.log" >&2; fail "debootstrap failed"; }
    rm -rf "$work"/rootfs/var/cache/apt/* "$work"/rootfs/var/lib/apt/lists/*
    container=$(b from scratch)
    b add --quiet "$container" "$work/rootfs" / >/dev/null
    b commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf "$work/rootfs"
    say "base image made in $((SECONDS - start)) s"
fi

# Pip's settings, as secrets.
pip=$(command -v pip3 || command -v pip || true)
pip_setting() {
    local section
    [ -n "$pip" ] || return 0
    for section in :env: install global; do
        "$pip" config get "$section.$1" 2>/dev/null && return 0
    done
    return 0
}

secrets=$work/secrets
mkdir -p "$secrets"
chmod 700 "$secrets"
{
    echo "[global]"
    for name in index-url extra-index-url trusted-host; do
        # A folder of the host (file:) is not there inside the build.
        value=$(pip_setting "$name" | tr -s ' \n' '\n' | grep -v '^file:' | tr '\n' ' ' || true)
        [ -z "${value// /}" ] || echo "$name = $value"
    done
    echo "cert = /run/secrets/pip_ca"
} >"$secrets/pip.conf"
certificates=$(pip_setting cert)
cp "${certificates:-/etc/ssl/certs/ca-certificates.crt}" "$secrets/pip-ca.pem"

# The image.
version=$(sed -n 's/^RELEASE = "\([^"]*\)".*/\1/p' "$root/covct/version.py")
revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
start=$SECONDS
# docker's format, since OCI's has no HEALTHCHECK.
b bud --isolation chroot --pull=never --format docker --build-arg BASE="$base" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    --secret id=pip_conf,src="$secrets/pip.conf" --secret id=pip_ca,src="$secrets/pip-ca.pem" \
    --ignorefile "$root/$dockerfile.dockerignore" --file "$root/$dockerfile" --tag "$tag" "$root" \
    >"$work/build.log" 2>&1 || { tail -40 "$work/build.log" >&2; fail "the build failed"; }
rm -rf "$secrets"
say "built $tag in $((SECONDS - start)) s, $(b images --format '{{.Size}}' "localhost/$tag")"

if [ -n "${COVCT_SAVE:-}" ]; then
    b push --quiet "localhost/$tag" "docker-archive:$COVCT_SAVE:$tag" >/dev/null
    say "saved $COVCT_SAVE"
fi
[ "${COVCT_RUN:-1}" = 1 ] || exit 0

# Runs on a phantom, as an engine would start them (run-rootfs.sh): with the image's environment, entry point and command.
root_of_image=$(b mount "$(b from --pull-never "localhost/$tag")")
of_image() { b inspect --type image --format "{{range .OCIv1.Config.$1}}{{println .}}{{end}}" "localhost/$tag" | sed '/^$/d'; }
mapfile -t settings < <(of_image Env | sed 's/^/-e\n/')
mapfile -t entrypoint < <(of_image Entrypoint)
mapfile -t command < <(of_image Cmd)
settings+=(-e COVCT_SCAN_DEVICE=cpu)

# in_image [-e NAME=VALUE | -v FOLDER:PLACE[:ro]]... -- [ARGUMENT...]: without arguments, the image's command.
in_image() {
    local options=("${settings[@]}")
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    [ $# -gt 0 ] || set -- "${command[@]}"
    "$root/docker/run-rootfs.sh" "$root_of_image" "$uid" "${options[@]}" -- "${entrypoint[@]}" "$@"
}
ended() { # ended CODE FUNCTION...: what it has to end with
    local code=0
    "${@:2}" || code=$?
    [ "$code" = "$1" ] || fail "'${*:2}' ended with exit code $code, wanted $1"
}
fresh() { rm -rf "${@/#/$work/}"; mkdir -p "${@/#/$work/}"; chown "$uid:$uid" "${@/#/$work/}"; }

say "the files of the image: $(du -sm "$root_of_image" | cut -f1) MB; what it holds: $(wc -l <"$root_of_image/usr/share/doc/covct/LICENCES.txt") packages"
say "uid $uid, read-only, no network, no capabilities: $(in_image -- --version)"
fresh phantom out mercure/in mercure/out challenge/input/images/ct challenge/output holoscan \
    kaapana/batch/1.2
in_image -v "$work/phantom:/in" -- phantom /in/series
series=$work/phantom/series/dicom

say "without arguments and without a platform"
ended 2 in_image --

say "an ordinary scan"
start=$SECONDS
ended 0 in_image -v "$work/phantom:/in:ro" -v "$work/out:/out" -- scan /in --out /out
say "first pass: exit code 0 after $((SECONDS - start)) s"
start=$SECONDS
ended 0 in_image -v "$work/phantom:/in:ro" -v "$work/out:/out" -- scan /in --out /out
say "second pass, nothing left to do: exit code 0 after $((SECONDS - start)) s"
ended 0 in_image -v "$work/out:/out" -- status /out
ended 0 in_image -v "$work/out:/out" -- health /out
ended 0 in_image -v "$work/out:/out" -- doctor --out /out --networks
find "$work/out" -mindepth 3 -name outcome.json -exec grep -q '"done"' {} + || fail "no series is done"

say "as Mercure starts it"
for file in "$series"/*; do cp "$file" "$work/mercure/in/1.2#$(basename "$file" .dcm).dcm"; done
echo '{"id": "1", "process": {"settings": {"formats": "seg,sr", "notify-from": 5}}}' >"$work/mercure/in/task.json"
ended 0 in_image -e MERCURE_IN_DIR=/tmp/data -e MERCURE_OUT_DIR=/tmp/output -e HOLOSCAN_INPUT_PATH=/tmp/data \
    -e HOLOSCAN_OUTPUT_PATH=/tmp/output -v "$work/mercure/in:/tmp/data" -v "$work/mercure/out:/tmp/output" --
cat "$work/mercure/out/result.json"
echo '{"id": "1", "process": {"settings": {"formts": "seg"}}}' >"$work/mercure/in/task.json"
ended 2 in_image -e MERCURE_IN_DIR=/tmp/data -e MERCURE_OUT_DIR=/tmp/output \
    -v "$work/mercure/in:/tmp/data" -v "$work/mercure/out:/tmp/output" --

say "as Grand-challenge starts it"
(entrypoint=(python); in_image -v "$series:/in:ro" -v "$work/challenge/input/images/ct:/out" -- -c '
import SimpleITK
reader = SimpleITK.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames("/in"))
SimpleITK.WriteImage(reader.Execute(), "/out/8f2c9d0a.mha", True)')
ended 0 in_image -v "$work/challenge/input:/input:ro" -v "$work/challenge/output:/output" --

say "as Holoscan and as Kaapana start it"
ended 0 in_image -e HOLOSCAN_INPUT_PATH=/var/holoscan/input -e HOLOSCAN_OUTPUT_PATH=/var/holoscan/output \
    -e COVCT_SCAN_FORMATS=seg -v "$series:/var/holoscan/input:ro" -v "$work/holoscan:/var/holoscan/output" --
cp -r "$series" "$work/kaapana/batch/1.2/get-input-data"
ended 0 in_image -e WORKFLOW_DIR=/kaapana -e BATCH_NAME=batch -e OPERATOR_IN_DIR=get-input-data -e OPERATOR_OUT_DIR=covct \
    -e COVCT_SCAN_FORMATS=seg -v "$work/kaapana:/kaapana" --

for place in out mercure/out challenge/output holoscan kaapana/batch/1.2/covct; do
    find "$work/$place" -type f -printf "$place/%P\t%s bytes\n" | sort
done
[ "$(find "$work/challenge/output/images" -name '*.mha' | wc -l)" = 2 ] || fail "Grand-challenge got no two masks"
[ "$(find "$work/mercure/out" -mindepth 1 -type d | wc -l)" = 0 ] || fail "Mercure got folders"
say "all runs ended as they should"
