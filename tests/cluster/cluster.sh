#!/bin/sh
# A Slurm of one machine, on loopback, without systemd, cgroups or accounting: cluster.sh start|stop DIRECTORY
# Needs root, and Debian's slurmctld, slurmd, slurm-client and munge. Two nodes with two processors each, which is a
# fiction: they share what this machine has. sacct does not work here, as on many clusters.
set -eu
action=$1 home=$2
export SLURM_CONF=$home/slurm.conf

start() {
    mkdir -p "$home/state" "$home/spool" "$home/munge"
    chmod 755 "$home"
    chmod 700 "$home/munge"
    head -c 128 /dev/urandom > "$home/munge/key"
    chmod 400 "$home/munge/key"
    munged --force --key-file="$home/munge/key" --socket="$home/munge/socket" --pid-file="$home/munge/pid" \
        --seed-file="$home/munge/seed" --log-file="$home/munge/log" --num-threads=2
    host=$(hostname -s)
    cat > "$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=socket=$home/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool/%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd-%n.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
KillWait=20
MinJobAge=60
JobRequeue=1
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=work Nodes=one,two Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
    slurmctld
    slurmd -N one
    slurmd -N two
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then return; fi
        sleep 0.5
    done
    echo "no idle nodes after 30 s:" >&2
    sinfo >&2
    tail -n 20 "$home"/*.log >&2
    exit 1
}

stop() {
    # each by its own pid, nothing by name
    for pid in "$home"/slurmd-one.pid "$home"/slurmd-two.pid "$home"/slurmctld.pid "$home"/munge/pid; do
        if [ -f "$pid" ]; then kill "$(cat "$pid")" 2>/dev/null || true; fi
    done
}

"$action"
