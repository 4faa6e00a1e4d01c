#!/usr/bin/env bash
# Stops what slurm_up.sh FOLDER started, by the pid files that it wrote and nothing by name.
set -uo pipefail
LAB=$(realpath -m "$1")
export SLURM_CONF=$LAB/etc/slurm.conf
stop() {
    local file=$LAB/run/$1.pid pid
    [ -s "$file" ] || return 0
    pid=$(cat "$file")
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]; then # not a recycled number
        kill "$pid"
        for _ in $(seq 40); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
        kill -9 "$pid" 2>/dev/null
    fi
    rm -f "$file"
}
if [ -s "$LAB/run/slurmctld.pid" ]; then
    squeue -h -o %A | xargs -r scancel
    for _ in $(seq 40); do [ -n "$(squeue -h)" ] || break; sleep 0.25; done
fi
for daemon in slurmd slurmctld munged; do stop "$daemon"; done
for file in slurm.conf gres.conf; do
    [ "$(readlink "/etc/slurm/$file")" = "$LAB/etc/$file" ] && rm -f "/etc/slurm/$file"
done
exit 0
