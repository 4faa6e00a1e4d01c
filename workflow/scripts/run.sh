#!/usr/bin/env bash
# Run a command of mmfl for a rule: run.sh LOG COMMAND ARGUMENTS...
# Its output goes into LOG; if it fails, the end of LOG and the command to run it alone are shown.
set -u
log=$1
shift
# The project's own package. Snakemake clears PYTHONPATH for a conda environment, so it is set here.
source=$(cd "$(dirname "$0")/../../src" && pwd) || exit
export PYTHONPATH="$source${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$(dirname "$log")"
python -m mmfl.cli "$@" > "$log" 2>&1
status=$?
if [ "$status" -ne 0 ]; then
    {
        reason="exit status $status"
        [ "$status" -gt 128 ] && reason="signal $(kill -l $((status - 128)))"
        echo "mmfl $1: $reason; the end of $log:"
        tail -n 12 "$log" | tr '\r' '\n' | tail -n 12 | sed 's/^/    /'
        echo "To run it alone: $(printf '%q ' mmfl "$@")"
    } >&2
fi
exit "$status"
