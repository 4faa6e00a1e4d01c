#!/usr/bin/env bash
# A real one-node SLURM on loopback with pretend GPUs, as root and without systemd; for tests.
#   slurm_up.sh FOLDER      FOLDER gets configuration, state, logs and pid files
#   GPUS=4 CPUS=32 MEM=80000   what the node says that it has
# install.sh has the packages. slurm_down.sh FOLDER stops it and removes what it put elsewhere.
set -euo pipefail
LAB=$(realpath -m "$1")
GPUS=${GPUS:-4}
CPUS=${CPUS:-32}
HOST=$(hostname -s)
MEM=${MEM:-80000} # MB
SOCKET=/run/munge/munge.socket.2 # the built-in default: srun within a job looks only there

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }
wait_for() {
    for _ in $(seq 60); do "$@" >/dev/null 2>&1 && return 0; sleep 0.5; done
    echo "slurm_up: 30 s are over, still failing: $*; see $LAB/log" >&2
    return 1
}

# A job step clears SLURM_*, SLURM_CONF too, so the default place must lead here: one cluster at a
# time. Another one of these (a test run in another clone) is waited for.
CONF=/etc/slurm/slurm.conf
taken() {
    [ -e "$CONF" ] || [ -L "$CONF" ] || return 1
    [ -L "$CONF" ] || return 0
    other=$(dirname "$(dirname "$(readlink "$CONF")")")
    [ "$other" != "$LAB" ] && alive "$other/run/slurmctld.pid"
}
for _ in $(seq "${WAIT:-300}"); do
    taken || break
    sleep 1
done
if taken; then
    echo "slurm_up: $CONF belongs to another cluster ($(realpath "$CONF")), left alone" >&2
    exit 1
fi

mkdir -p "$LAB"/{etc,state,spool,log,run,gpu} /run/munge /etc/slurm
chmod 755 /run/munge "$LAB" "$LAB"/{etc,run,log,gpu}
if ! munge -n >/dev/null 2>&1; then
    rm -f "$SOCKET" "$SOCKET.lock"
    [ -s "$LAB/etc/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$LAB/etc/munge.key")
    munged --force --key-file="$LAB/etc/munge.key" --socket="$SOCKET" --num-threads=2 \
        --pid-file="$LAB/run/munged.pid" --log-file="$LAB/log/munged.log" \
        --seed-file="$LAB/state/munged.seed"
fi
wait_for munge -n

: >"$LAB/etc/gres.conf"
for i in $(seq 0 $((GPUS - 1))); do # slurmd wants character devices: twins of /dev/null
    [ -c "$LAB/gpu/fake$i" ] || mknod -m 666 "$LAB/gpu/fake$i" c 1 3
    echo "Name=gpu Type=fake File=$LAB/gpu/fake$i" >>"$LAB/etc/gres.conf"
done
cat >"$LAB/etc/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd.log
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MinJobAge=3600
KillWait=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEM Gres=gpu:fake:$GPUS State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=7-0 State=UP DefMemPerCPU=512
PartitionName=gpu Nodes=$HOST MaxTime=7-0 State=UP DefMemPerCPU=512
PartitionName=urgent Nodes=$HOST MaxTime=7-0 State=UP DefMemPerCPU=512 PriorityTier=10
PartitionName=short Nodes=$HOST MaxTime=60 State=UP DefMemPerCPU=512
PartitionName=closed Nodes=$HOST MaxTime=7-0 State=DOWN DefMemPerCPU=512
CONF
for file in slurm.conf gres.conf; do ln -sfn "$LAB/etc/$file" "/etc/slurm/$file"; done
export SLURM_CONF=$LAB/etc/slurm.conf
alive "$LAB/run/slurmctld.pid" || slurmctld
wait_for scontrol ping
alive "$LAB/run/slurmd.pid" || slurmd -N "$HOST"
node_up() { sinfo -h -n "$HOST" -p main -o %t | grep -Eq '^(idle|mix|alloc)'; }
wait_for node_up
