#!/bin/sh
# Debian or Ubuntu packages of the one-node SLURM that tests/cluster/ start; needs root.
set -eu
wanted="slurmctld slurmd munged sbatch squeue scontrol"
missing() { for tool in $wanted; do PATH="$PATH:/usr/sbin" command -v "$tool" >/dev/null || echo "$tool"; done; }
if [ -n "$(missing)" ]; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get -qq update || true
    $as_root apt-get -qq install -y --no-install-recommends slurm-wlm munge || true
fi
if [ -n "$(missing)" ]; then
    echo "tests/cluster/install.sh: FAILED: SLURM could not be installed (missing: $(missing | tr '\n' ' '));" >&2
    echo "the tests of the cluster cannot run. Install slurm-wlm and munge (Debian's names) and try again." >&2
    exit 1
fi
