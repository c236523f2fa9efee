#!/usr/bin/env bash
# Renew one lock: lock.sh FILE COMMAND [ARGUMENT ...]. The command writes packages with -o; versions that FILE has stay,
# and so does the head of FILE, which says what it is.
set -euo pipefail
file=$1
shift
head=$(sed '/^[^#]/,$d' "$file")
"$@" -o "$file"
printf '%s\n%s\n' "$head" "$(grep -v '^#' "$file")" >"$file.new"
mv "$file.new" "$file"
