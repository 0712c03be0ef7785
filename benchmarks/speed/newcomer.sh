#!/usr/bin/env bash
# What a newcomer does: clone, run the sample album. Prints the seconds it took as one line of JSON.
# The figure depends on the package cache; run it twice to see it warm.
set -euo pipefail
cd "$(dirname "$0")/../.."

aside=$(mktemp -d)
trap 'rm -rf "$aside"' EXIT
begin=$(date +%s.%N)
git clone --quiet . "$aside/face-worker"
cloned=$(date +%s.%N)
"$aside/face-worker/dev_worker.sh" album --out "$aside/out" >&2
end=$(date +%s.%N)
awk -v a="$begin" -v b="$cloned" -v c="$end" 'BEGIN { printf "{\"clone_s\": %.1f, \"album_s\": %.1f, \"total_s\": %.1f}\n", b - a, c - b, c - a }'
