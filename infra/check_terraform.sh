#!/usr/bin/env bash
# Checks infra/terraform without AWS: its form, whether it is valid, and what its parts do with mocked providers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root/infra/terraform"

CHECKOV=3.3.30
# Two at once: each is a terraform and a provider that mostly compute, and need a gigabyte together.
AT_ONCE=2

usage() {
    cat <<'TEXT'
Usage: infra/check_terraform.sh [--with-checkov]

terraform fmt, validate for the examples, and terraform test for the root and every module; with --with-checkov also
checkov, by uv. TF_PLUGIN_DIR names a folder with the AWS provider; unset, Terraform finds or downloads it.

The last line says what was checked. Where a tool is missing it says so ("not run"); with CI set, that is a failure.
TEXT
}

fail() {
    echo "check_terraform.sh: $*" >&2
    exit 1
}

# What this machine lacks is no fault of the code, but must not pass for a check where one was promised.
lacks() {
    [[ -z ${CI:-} ]] || fail "$2"
    echo "$1: not run: $2"
}

checkov=
case ${1:-} in
    --with-checkov) checkov=yes ;;
    -h | --help) usage && exit 0 ;;
    '') ;;
    *) fail "'$1' is not known; see --help" ;;
esac

command -v terraform >/dev/null || {
    lacks terraform "terraform is not installed. Install Terraform 1.11 or newer: https://developer.hashicorp.com/terraform/install"
    exit 0
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The provider is loaded anew for each test run; a third of its time would go into collecting garbage.
export GOGC=${GOGC:-400}
# Terraform would ask its maker for newer versions.
export CHECKPOINT_DISABLE=1
if [[ -n ${TF_PLUGIN_DIR:-} ]]; then
    export TF_CLI_ARGS_init=-plugin-dir=$TF_PLUGIN_DIR
else
    # Downloaded once for all folders. Their lock files are made here and not kept, so there is none to be broken.
    mkdir "$scratch/plugins"
    export TF_PLUGIN_CACHE_DIR=$scratch/plugins TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE=1
fi

# Each folder has its own data outside of it, so that two can be looked at at once.
in_folder() {
    local folder=$1
    shift
    TF_DATA_DIR=$scratch/${folder//\//_} terraform -chdir="$folder" "$@"
}

prepare() { in_folder "$1" init -backend=false -input=false -no-color; }

look_at() {
    local action=$1 folder=$2 log=$scratch/$1${2//\//_}.log said
    { prepare "$folder" && in_folder "$folder" "$action" -no-color; } >"$log" 2>&1 || {
        cat "$log" >&2
        echo "check_terraform.sh: terraform $action fails in infra/terraform/$folder." >&2
        return 1
    }
    # A folder whose tests are not found ends with 0 too: "Success! 0 passed, 0 failed."
    said=$(grep -m1 -E '^Success! (The configuration is valid|[1-9][0-9]* passed, 0 failed)' "$log") || {
        echo "check_terraform.sh: terraform $action tested nothing in infra/terraform/$folder." >&2
        return 1
    }
    echo "terraform $action, $folder: $said" | tee -a "$scratch/said"
}

terraform fmt -check -recursive >/dev/null || {
    terraform fmt -check -recursive -diff >&2
    fail "these files are not in Terraform's form; run terraform fmt -recursive."
}
echo "terraform fmt: in form"

prepare . >"$scratch/init.log" 2>&1 || {
    cat "$scratch/init.log" >&2
    lacks terraform "the AWS provider can't be had. Set TF_PLUGIN_DIR to a folder that has it, or go online."
    exit 0
}

# The longest first: by the number of their runs.
list_tested() {
    find . -name '*.tftest.hcl' -not -path '*/.terraform/*' -exec grep -cH '^run ' {} + | sort -t: -k2 -rn |
        sed -E 's|^\./||; s|/?tests/[^/]*$||; s|^$|.|' | awk '!seen[$0]++'
}
export -f in_folder prepare look_at
export scratch
{
    for folder in $(list_tested); do echo "test $folder"; done
    for example in examples/*/; do echo "validate ${example%/}"; done
} | xargs -P "$AT_ONCE" -L 1 bash -c 'look_at "$@"' look_at || fail "infra/terraform does not pass; see above."

if [[ -n $checkov ]]; then
    uv=$(command -v uv || echo "$root/.venv/bin/uv")
    if [[ -x $uv ]]; then
        "$uv" tool run --from "checkov==$CHECKOV" checkov --directory . --framework terraform --quiet --compact \
            --skip-path '.*/\.terraform/.*' --skip-download | tee "$scratch/checkov.log" ||
            fail "checkov finds failures; see above."
        counts=$(sed -nE 's/^Passed checks: ([1-9][0-9]*), Failed checks: 0, Skipped checks: ([0-9]+).*/\1 passed, 0 failed, \2 skipped with reasons/p' "$scratch/checkov.log")
        echo "checkov: ${counts:?checkov checked nothing}"
    else
        lacks checkov "it comes by uv, which is not installed. Run make setup."
    fi
fi

examples=$(grep -c '^terraform validate' "$scratch/said")
modules=$(grep -c '^terraform test' "$scratch/said")
runs=$(sed -nE 's/.*Success! ([0-9]+) passed.*/\1/p' "$scratch/said" | awk '{ sum += $1 } END { print sum }')
echo "terraform: $examples examples validated, $runs test runs of $modules modules passed"
