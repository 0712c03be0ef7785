#!/usr/bin/env bash
# Builds the production image with what is checked out in its labels: infra/build_image.sh IMAGE [OPTION OF DOCKER BUILD…]
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# == 0 || $1 == -* ]]; then
    echo "Usage: infra/build_image.sh IMAGE [OPTION OF DOCKER BUILD…]" >&2
    exit 1
fi
image=$1
shift

commit=unknown created='' source=''
if command -v git >/dev/null && git rev-parse HEAD >/dev/null 2>&1; then
    commit=$(git rev-parse HEAD)
    # The commit's own time, so that the same commit makes the same image.
    created=$(git log -1 --format=%cI)
    [[ -z $(git status --porcelain) ]] || commit+=-dirty
    # An address with a name or a token in it stays out of the image.
    source=$(git config --get remote.origin.url || true)
    [[ $source =~ ^https://[^@]+$ ]] || source=''
fi
version=$(sed -n '0,/^version = /s/^version = "\(.*\)"$/\1/p' pyproject.toml)

echo "Building $image of $commit…"
# Without attestations a tag's digest is that of the image itself, which is what ECS says it runs.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1
# The wheels for GPUs are for this platform alone.
exec docker build --platform linux/amd64 --tag "$image" --build-arg COMMIT="$commit" --build-arg CREATED="$created" \
    --build-arg SOURCE="$source" --build-arg VERSION="$version" "$@" .
