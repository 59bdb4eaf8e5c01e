#!/usr/bin/env bash
# Every fault point of snapshot and restore, about 5,500 in half an hour: faults_full.sh [pytest's own options].
# The closing lines say how many were tried, how many happened and how many failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
VMMD_FAULTS=full exec /usr/bin/python3 -m pytest -q -p no:cacheprovider test_faults.py -k every_fault "$@"
