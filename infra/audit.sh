#!/bin/sh
# sh infra/audit.sh      (or: make audit)
# Looks for known vulnerabilities of the locked packages by pip-audit. The client's are lines of the same lock. First it
# asks for a package that is known to have some. An index that says nothing about it says nothing about any. Then the
# audit is skipped, with the reason, instead of passed.
set -eu
cd "$(dirname "$0")/.."
PIP_AUDIT=pip-audit==2.10.1
uv() { PYTHONPATH=.tools "${PYTHON:-.venv/bin/python}" -m uv "$@"; }
audit() { uv tool run --quiet --python .venv/bin/python --from "$PIP_AUDIT" pip-audit --progress-spinner off --disable-pip --timeout 30 "$@"; }

probe=$(mktemp)
trap 'rm -f "$probe"' EXIT
echo "urllib3==1.26.4" >"$probe"
if audit --no-deps --requirement "$probe" >"$probe.said" 2>&1; then
    echo "audit skipped: the package index here tells of no vulnerability in urllib3 1.26.4, which has several"
    cat "$probe.said"
    rm -f "$probe.said"
    exit 0
elif ! grep -Eq 'PYSEC-|GHSA-|CVE-' "$probe.said"; then
    echo "audit skipped: pip-audit or the package index cannot be reached from here"
    tail -n 3 "$probe.said"
    rm -f "$probe.said"
    exit 0
fi
rm -f "$probe.said"
audit --require-hashes --requirement requirements.lock
