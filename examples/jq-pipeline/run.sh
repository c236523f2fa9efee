#!/usr/bin/env bash
# List the studies with more than PERCENT of the lungs infected, worst first, tab separated.
# Research use only. Not a medical device.
#
#   examples/jq-pipeline/run.sh OUT [PERCENT]
#
# Columns: study UID, series UID, infection %, infection mL, lungs mL, CT-SS class. One line per study: its series with
# the highest percentage. Only results that covct has finished count (outcome.json says done).
set -euo pipefail

[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: run.sh OUT [PERCENT]" >&2; exit 2; }
out=$1
percent=${2:-25}
command -v jq >/dev/null || { echo "jq-pipeline: jq is missing: apt-get install jq" >&2; exit 2; }
[ -d "$out" ] || { echo "jq-pipeline: no such folder: $out" >&2; exit 2; }
[[ $percent =~ ^[0-9]+(\.[0-9]+)?$ ]] || { echo "jq-pipeline: PERCENT must be a number, got: $percent" >&2; exit 2; }

echo "Research use only. Not a medical device." >&2

reports=$(mktemp)
trap 'rm -f "$reports"' EXIT

# Both folder levels are named, so results still being staged under OUT/.covct are not looked at. A few processes for
# the whole tree, whatever its size: xargs fills each command line.
cd "$out"
find . -mindepth 3 -maxdepth 3 -name outcome.json -not -path './.covct/*' -print0 |
    xargs -r -0 jq -r 'select(.status == "done") | input_filename | sub("outcome.json$"; "report.json")' |
    xargs -r -d '\n' jq -c '{
        study: (.source.study_instance_uid // (input_filename | split("/")[1])),
        series: (.source.series_instance_uid // (input_filename | split("/")[2])),
        lungs: .regions.lungs,
        class: .severity.class
    }' >"$reports"

jq -rs --argjson percent "$percent" '
    map(select(.lungs.infection_percent != null and .lungs.infection_percent > $percent))
    | group_by(.study)
    | map(max_by(.lungs.infection_percent))
    | sort_by(-.lungs.infection_percent, .study)
    | .[]
    | [.study, .series, .lungs.infection_percent, .lungs.infection_ml, .lungs.volume_ml, .class]
    | @tsv' "$reports"

without=$(jq -s 'map(select(.lungs.infection_percent == null)) | length' "$reports")
[ "$without" = 0 ] || echo "jq-pipeline: $without finished series have no valid percentage and are not listed" >&2
