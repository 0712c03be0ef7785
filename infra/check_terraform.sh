#!/usr/bin/env bash
# Checks infra/terraform without AWS: its form, whether it is valid, and what its parts do with mocked providers.
set -euo pipefail
cd "$(dirname "$0")/terraform"

usage() {
    cat <<'TEXT'
Usage: infra/check_terraform.sh [--with-checkov]

terraform fmt, validate for the examples, and terraform test for the root and every module; with --with-checkov also
checkov, by uv. TF_PLUGIN_DIR names a folder with the AWS provider; unset, terraform downloads it.
TEXT
}

checkov=
case ${1:-} in
    --with-checkov) checkov=yes ;;
    -h | --help) usage && exit 0 ;;
    '') ;;
    *) echo "check_terraform.sh: '$1' is not known; see --help" >&2 && exit 1 ;;
esac

command -v terraform >/dev/null || {
    echo "terraform is not installed: infra/terraform is not checked."
    exit 0
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[[ -z ${TF_PLUGIN_DIR:-} ]] || export TF_CLI_ARGS_init=-plugin-dir=$TF_PLUGIN_DIR

# Each folder has its own data beside the others', so that nothing is left here and two can be looked at at once.
in_folder() {
    local folder=$1
    shift
    TF_DATA_DIR=$scratch/${folder//\//_} terraform -chdir="$folder" "$@"
}

prepare() { in_folder "$1" init -backend=false -input=false -no-color; }

look_at() {
    local folder=$1 action=$2 log=$scratch/${1//\//_}.log
    { prepare "$folder" && in_folder "$folder" "$action" -no-color; } >"$log" 2>&1 || {
        cat "$log" >&2
        echo "check_terraform.sh: terraform $action fails in infra/terraform/$folder." >&2
        return 1
    }
    echo "terraform $action, $folder: $(grep -m1 -E 'passed|Success' "$log" || echo "done")"
}

terraform fmt -check -recursive >/dev/null || {
    terraform fmt -check -recursive -diff >&2
    echo "check_terraform.sh: these files are not in Terraform's form; run terraform fmt -recursive." >&2
    exit 1
}
echo "terraform fmt: in form"

prepare . >/dev/null 2>&1 || {
    echo "The AWS provider can't be had (set TF_PLUGIN_DIR, or go online): infra/terraform is not validated."
    exit 0
}

for example in examples/*/; do
    look_at "${example%/}" validate
done

# Two at a time: each is one process that mostly computes.
export -f in_folder prepare look_at
export scratch
find . -name '*.tftest.hcl' -not -path '*/.terraform/*' -printf '%h\n' | sort -u | sed 's|/tests$||' |
    xargs -P2 -I{} bash -c 'look_at {} test'

if [[ -n $checkov ]]; then
    command -v uv >/dev/null || { echo "uv is not installed: checkov is left out." && exit 0; }
    uv tool run --from checkov==3.3.30 checkov --directory . --framework terraform --quiet --compact \
        --skip-path '.*/\.terraform/.*' --skip-download
    echo "checkov: no failures"
fi
