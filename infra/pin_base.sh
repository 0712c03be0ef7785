#!/usr/bin/env bash
# Writes into the Dockerfile which digest its base image has now, so that every build starts from the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "pin_base.sh: $*" >&2
    exit 1
}

command -v docker >/dev/null || fail "docker is missing; install it with buildx, which asks the registry."
base=$(sed -n 's/^ARG PYTHON=\([^@]*\).*$/\1/p' Dockerfile)
digest=$(docker buildx imagetools inspect "$base" --format '{{.Manifest.Digest}}') ||
    fail "the registry did not tell the digest of $base; see the lines above."
[[ $digest == sha256:* ]] || fail "the registry answered '$digest', which is no digest."
sed -i "s|^ARG PYTHON=.*\$|ARG PYTHON=$base@$digest|" Dockerfile
echo "The base is $base@$digest; build the image and commit the Dockerfile."
