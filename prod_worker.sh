#!/usr/bin/env bash
# Builds the production image and runs one service in it on a GPU host.
set -euo pipefail
cd "$(dirname "$0")"

image=${IMAGE:-face-worker:local}
env_file=${ENV_FILE:-prod.env}

usage() {
    cat <<'TEXT'
Usage: ./prod_worker.sh [detection|grouping] [--rebuild]

Runs a service (detection where none is named) in the production image on this GPU host. --rebuild builds the image
first; it is also built where it is missing. Settings are read from prod.env, one NAME=value a line (another file
by ENV_FILE; another image by IMAGE); docs/configuration.md lists them. Whether this host suits is told at the start,
and in full by: docker run --rm --gpus all IMAGE -m app.preflight
TEXT
}

fail() {
    echo "prod_worker.sh: $*" >&2
    exit 1
}

service=detection
rebuild=
for argument in "$@"; do
    case $argument in
        detection | grouping) service=$argument ;;
        --rebuild) rebuild=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "'$argument' is not known; see ./prod_worker.sh --help" ;;
    esac
done

command -v docker >/dev/null || fail "docker is missing; install it with the NVIDIA container toolkit."
docker info >/dev/null 2>&1 || fail "no Docker engine answers; start it, or run this as a user of the docker group."
[[ -f $env_file ]] || fail "$env_file is missing; write the settings into it, one NAME=value a line (docs/configuration.md)."

if [[ -n $rebuild ]] || ! docker image inspect "$image" >/dev/null 2>&1; then
    infra/build_image.sh "$image" || fail "the image could not be built; see the lines above."
fi

gpus=(--gpus all)
if ! command -v nvidia-smi >/dev/null; then
    echo "No NVIDIA driver here: running on the CPU."
    gpus=()
fi

echo "Running the $service service; Ctrl-C stops it after the photos in work."
exec docker run --rm --init --read-only --tmpfs /tmp --stop-timeout 110 "${gpus[@]}" \
    --volume face-worker-index:/var/lib/face-worker \
    --env-file "$env_file" --env SERVICE_TYPE="$service" "$image"
