#!/usr/bin/env bash
# One nightly pass over a folder of CT series: logs, and what to do about each exit code of covct.
# Research use only. Not a medical device.
#
#   COVCT_IN=/srv/ct/in COVCT_OUT=/srv/ct/out examples/nightly/run.sh [OPTION OF covct scan ...]
#
# Settings from the environment:
#   COVCT_IN, COVCT_OUT   source folder and output tree (required)
#   COVCT_LOGS            folder of the logs                                          COVCT_OUT-logs
#   COVCT_KEEP_DAYS       age at which this script's own logs are deleted             60
#   COVCT_TIME_LIMIT      stop after this long (timeout's notation, e.g. 9h)          no limit
#   COVCT_LOCK_TRIES      tries while another covct holds the output tree             4
#   COVCT_LOCK_WAIT       seconds between these tries                                 900
#   COVCT_CPU_FALLBACK    1: without a GPU, continue on the CPU                       0
set -euo pipefail

if [ -z "${COVCT_IN:-}" ] || [ -z "${COVCT_OUT:-}" ]; then
    echo "covct nightly: set COVCT_IN to the folder with the CT series and COVCT_OUT to the folder for the results" >&2
    exit 2
fi
logs=${COVCT_LOGS:-${COVCT_OUT%/}-logs}
tries=${COVCT_LOCK_TRIES:-4}

night=$(date +%Y-%m-%dT%H%M%S)
log=$logs/covct-$night.log
events=$logs/covct-$night.jsonl
if ! { mkdir -p "$logs" && : >>"$log"; }; then
    echo "covct nightly: the logs cannot be written: $log" >&2
    exit 12
fi
find "$logs" -maxdepth 1 -type f -name 'covct-*' \( -name '*.log' -o -name '*.jsonl' \) \
    -mtime "+${COVCT_KEEP_DAYS:-60}" -delete

# <3> error, <4> warning, <6> information: the journal reads these levels; elsewhere they are just a prefix.
say() { printf '<%s>covct nightly: %s\n' "$1" "$2" | tee -a "$log" >&2; }

# covct runs in the background, since bash would otherwise hold back a stop signal until the whole night is done.
child=
signalled=0
trap 'signalled=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM INT

scan() {
    local command=(covct scan "$COVCT_IN" --out "$COVCT_OUT" --json "$@") status=0
    if [ -n "${COVCT_TIME_LIMIT:-}" ]; then
        command=(timeout --preserve-status --kill-after=5m "$COVCT_TIME_LIMIT" "${command[@]}")
    fi
    "${command[@]}" >>"$events" 2>>"$log" &
    child=$!
    wait "$child" || status=$?
    # A signal ends `wait` before its child: wait again, for what covct itself has to say.
    while [ "$signalled" = 1 ]; do
        signalled=0
        status=0
        wait "$child" || status=$?
    done
    child=
    return "$status"
}

run_night() {
    local try status
    for ((try = 1; ; try++)); do
        status=0
        scan "$@" || status=$?
        if [ "$status" != 11 ] || [ "$try" -ge "$tries" ]; then
            return "$status"
        fi
        say 4 "another covct holds $COVCT_OUT, try $try of $tries; again in ${COVCT_LOCK_WAIT:-900} s"
        sleep "${COVCT_LOCK_WAIT:-900}"
    done
}

status=0
run_night "$@" || status=$?
if [ "$status" = 13 ] && [ "${COVCT_CPU_FALLBACK:-0}" = 1 ]; then
    say 4 "no GPU tonight: continuing on the CPU"
    kept=()
    for option in "$@"; do
        [ "$option" = --require-gpu ] || kept+=("$option")
    done
    status=0
    run_night ${kept[@]+"${kept[@]}"} --device cpu || status=$?
fi

case $status in
    0) say 6 "nothing left to do. Results: $COVCT_OUT/index.html" ;;
    1) say 3 "a bug in covct stopped the night; report it with $log" ;;
    2) say 3 "wrong options or paths; see $log" ;;
    3)
        say 4 "ended, but some series failed (with --strict: or were rejected); covct scan --retry-failed tries them again"
        covct status "$COVCT_OUT" 2>&1 | tee -a "$log" >&2 || true
        ;;
    10) say 3 "the weights are missing or altered: install covct again. Nothing was processed" ;;
    11) say 3 "another covct held $COVCT_OUT for $tries tries. Nothing was processed" ;;
    12)
        say 3 "$COVCT_OUT cannot be written or its disk is full"
        df -h "$COVCT_OUT" 2>&1 | tee -a "$log" >&2 || true
        ;;
    13) say 3 "a GPU is required but there is none: see nvidia-smi, or set COVCT_CPU_FALLBACK=1" ;;
    14) say 3 "a source or a driver is not responding: check the mounts, or restart the machine" ;;
    126 | 127) say 3 "covct cannot be started: $(id -un) must find it on PATH ($PATH), and may read it and its Python" ;;
    130) say 4 "stopped by a signal or the time limit; finished series are kept, the next night continues" ;;
    137) say 3 "killed from outside, most likely out of memory; finished series are kept" ;;
    *) say 3 "unknown exit code $status; see $log" ;;
esac
exit "$status"
