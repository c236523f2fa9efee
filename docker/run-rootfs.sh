#!/usr/bin/env bash
# Run a command in an image's root file system on a host without an engine, as an engine would with these options:
#
#   --read-only --tmpfs /tmp --shm-size 128m --pids-limit 256 --network none --user UID:UID --cap-drop ALL
#   --security-opt no-new-privileges, and -v and -e as they are given
#
#   run-rootfs.sh ROOT UID [-e NAME=VALUE]... [-v FOLDER:PLACE[:ro]]... -- COMMAND [ARGUMENT]...
#
# Run it as root. Needs util-linux on the host and in the image. Folders to mount onto are made in ROOT.
set -euo pipefail

root=$1 uid=$2
shift 2
environment=() volumes=()
while [ "$1" != -- ]; do
    case $1 in
        -e) environment+=("$2") ;;
        -v) volumes+=("$2") ;;
        *) echo "run-rootfs: got $1, wanted -e, -v or --" >&2; exit 2 ;;
    esac
    shift 2
done
shift

for volume in "${volumes[@]}"; do
    IFS=: read -r _ place _ <<<"$volume"
    mkdir -p "$root$place"
done

# In namespaces of its own: what is mounted there, and runs there, goes with it.
# shellcheck disable=SC2016  # the inner shell expands it
exec unshare --net --mount --pid --ipc --uts --fork --kill-child --propagation private bash -euo pipefail -c '
    root=$1 uid=$2 count=$3
    shift 3
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmpfs "$root/tmp"
    mount -t tmpfs tmpfs "$root/dev"
    for device in null zero random urandom; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir "$root/dev/shm"
    mount -t tmpfs -o size=128m,mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
    for volume in "${@:1:count}"; do
        IFS=: read -r folder place access <<<"$volume"
        mkdir -p "$root$place"
        mount --bind "$folder" "$root$place"
        [ "$access" != ro ] || mount -o remount,bind,ro "$root$place"
    done
    shift "$count"
    exec prlimit --nproc=256 chroot "$root" setpriv --reuid "$uid" --regid "$uid" --clear-groups \
        --bounding-set=-all --inh-caps=-all --no-new-privs env --chdir=/tmp -i "$@"
' run-rootfs "$root" "$uid" "${#volumes[@]}" "${volumes[@]}" "${environment[@]}" "$@"
