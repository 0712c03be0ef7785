#!/usr/bin/env bash
# Runs the whole system on this machine: a stand-in for AWS, a MongoDB, and both services.
set -euo pipefail
root=$(cd "$(dirname "$0")" && pwd)

usage() {
    cat <<'TEXT'
Usage: ./dev_worker.sh [COMMAND]

  (none)                        start everything and leave it running
  album [PHOTO_DIR] [--out DIR] [--pack NAME|MANIFEST]
                                a folder of photos in, people out; a sample album without PHOTO_DIR
  send PHOTO_DIR                send photos to the running services
  status | stop                 what runs; stop it all
  setup                         only install what is missing (.venv and the open model pack)
  --rebuild [COMMAND]           build the Docker image first, and run both services in it

Logs and data lie in .local (another folder by DEV_WORKER_HOME, to run a second system beside the first).
Settings come from the environment (see README.md). Where QUEUE_URL or GALLERY_IMAGES_MONGO_URI is set, the real
service is used. Else MongoDB is a mongod: that of MONGOD=PATH, one on the search path, or that of a Python package;
or SecantusDB, where none starts or with MONGOD=none.
TEXT
}

fail() {
    echo "dev_worker.sh: $*" >&2
    exit 1
}

find_uv() {
    if command -v uv >/dev/null; then
        uv=uv
        return
    fi
    uv=.local/tools/bin/uv
    if [[ ! -x $uv ]]; then
        command -v python3 >/dev/null || fail "python3 is missing; install Python 3.11 or 3.12."
        echo "Getting uv, which installs the rest…"
        python3 -m venv .local/tools || fail "python3 can't make a virtual environment; install python3-venv."
        PIP_DISABLE_PIP_VERSION_CHECK=1 .local/tools/bin/pip install --quiet uv || fail "uv could not be installed; see the lines above."
    fi
}

setup() {
    pushd "$root" >/dev/null
    if [[ ! .venv/.complete -nt uv.lock || ! .venv/.complete -nt pyproject.toml ]]; then
        find_uv
        echo "Installing the packages of uv.lock into .venv…"
        "$uv" sync --frozen --quiet --extra cpu || fail "the packages could not be installed; see the lines above."
        touch .venv/.complete
    fi
    if [[ ! -f models/open/.complete || models/open.toml -nt models/open/.complete ]]; then
        echo "Building the open model pack…"
        .venv/bin/python -m app.packs install open
        touch models/open/.complete
    fi
    popd >/dev/null
}

# From the caller's folder, so that the paths given mean what they say.
run() {
    PYTHONPATH=$root exec "$root/.venv/bin/python" -m local "$@"
}

rebuild() {
    command -v docker >/dev/null || fail "docker is missing; install it, or run without --rebuild."
    docker info >/dev/null 2>&1 || fail "no Docker engine answers; start it, or run without --rebuild."
    export DEV_WORKER_IMAGE=face-worker:dev
    "$root/infra/build_image.sh" "$DEV_WORKER_IMAGE" || fail "the image could not be built; see the lines above."
}

case "${1:-}" in
    -h | --help) usage ;;
    setup) setup ;;
    --rebuild)
        shift
        rebuild
        setup
        run "$@"
        ;;
    *)
        setup
        run "$@"
        ;;
esac
