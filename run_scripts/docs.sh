#!/usr/bin/env bash
# Builds a site of README.md, docs/ and the API reference in build/docs; warnings are errors.
# The first call installs Sphinx; later ones need no network.
#   bash docs.sh [flags of Sphinx, such as --fresh-env]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$project"
bash run_scripts/setup.sh --docs
# shellcheck source=../env.sh
source env.sh

python -m sphinx --builder html --conf-dir docs/reference --doctree-dir build/doctrees \
  --fail-on-warning --keep-going --quiet "$@" . build/docs
printf '<meta http-equiv="refresh" content="0; url=README.html">\n' >build/docs/index.html
printf 'The site is %s/build/docs/index.html\n' "$project"
