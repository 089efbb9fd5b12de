# shellcheck shell=bash
# A throw-away Slurm on this machine: real slurmctld, slurmd and munge. Source it.
#
#   cluster_refusal                  why there can be none here; silent when there can
#   cluster_start DIR NODES CPUS     until all nodes n1 ... are idle; sets SLURM_CONF for the client commands
#   cluster_node  kill|start NAME    lose a node, with all that runs on it, at once; bring it back
#   cluster_ctld  kill|start         lose the controller; bring it back with what it has on disk
#   cluster_stop                     everything, at once
#
# Nothing outside of DIR is touched: private munge key and socket, private slurm.conf, free ports. DIR should be short: paths of
# sockets end at 107 characters.
#
# Everything lives in one PID namespace, whose first process is the keeper below, and every node in one of its own inside it.
# Killing the first process of a namespace kills all of it, in the kernel, so a node dies as a node does, and stopping leaves
# nothing behind. The keeper in turn dies with the shell that started it, also by kill -9, through the parent-death signal.
#
# A node has its own host name, /dev/shm and TmpFS, because three things on a host are named by host: the shared memory of
# Open MPI, its session directory, and the directory of Slurm's PMIx plug-in. Without that, ranks of different "nodes" corrupt
# each other.

cluster_refusal()
{
    local tool
    for tool in munged slurmctld slurmd sbatch srun unshare setpriv mount hostname; do
        command -v "$tool" >/dev/null || { echo "no $tool (make setup installs slurm-wlm and munge)"; return; }
    done
    [ "$(id -u)" -eq 0 ] || { echo "a slurmd needs root"; return; }
    unshare --mount --uts --pid --fork --kill-child --mount-proc mount -t tmpfs tmpfs /dev/shm 2>/dev/null ||
        echo "no right to create namespaces and to mount in them"
}

cluster_start() # DIR NODES CPUS
{
    cluster=$1
    local i node
    mkdir -p "$cluster"/{log,state,munge} || return
    for ((i = 1; i <= $2; i++)); do mkdir -p "$cluster/tmp/n$i" "$cluster/spool/n$i"; done
    chmod 700 "$cluster/state" "$cluster/munge"
    cluster_write "$2" "$3"
    mkfifo "$cluster/orders" && exec {cluster_orders}<>"$cluster/orders"
    setpriv --pdeathsig KILL unshare --mount --uts --pid --fork --kill-child --mount-proc \
        bash "${BASH_SOURCE[0]}" keep "$cluster" "$2" <"$cluster/orders" >>"$cluster/log/keeper" 2>&1 {cluster_orders}>&- &
    cluster_keeper=$!
    export SLURM_CONF=$cluster/slurm.conf
    for ((i = 1; i <= $2; i++)); do
        node=n$i
        cluster_wait_node "$node" || { tail -n 5 "$cluster"/log/*; cluster_stop; return 1; }
    done
}

cluster_stop()
{
    [ -n "${cluster_keeper:-}" ] || return 0
    kill -9 "$cluster_keeper" 2>/dev/null || true
    wait "$cluster_keeper" 2>/dev/null || true # killed, as it should be
    cluster_keeper=""
    exec {cluster_orders}>&-
}

cluster_node() { cluster_order "$1" "$2"; }
cluster_ctld() { cluster_order "$1" slurmctld; }

# The keeper answers by making a file, so that an order is done when this returns.
cluster_order()
{
    local i answer=$cluster/done.$RANDOM$RANDOM
    printf '%s\n' "$* $answer" >&"$cluster_orders"
    for ((i = 0; i < 200; i++)); do
        [ ! -e "$answer" ] || { rm "$answer"; return 0; }
        sleep 0.05
    done
    echo "the cluster does not obey: $*"
    return 1
}

cluster_wait_node() # NAME: until it takes jobs
{
    local i
    for ((i = 0; i < 300; i++)); do
        case $(timeout 5 sinfo -h -n "$1" -o %t 2>/dev/null) in idle | mix | alloc) return 0 ;; esac
        sleep 0.1
    done
    echo "node $1 does not come up"
    return 1
}

# ---- slurm.conf ---------------------------------------------------------------------------------

cluster_port() # FIRST: the first port from there on that nobody listens to
{
    local p=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; do p=$((p + 1)); done
    echo "$p"
}

cluster_write() # NODES CPUS
{
    local i port=$((16000 + RANDOM % 12000))
    head -c 128 /dev/urandom >"$cluster/munge/key"
    chmod 600 "$cluster/munge/key"
    {
        cat /etc/hosts
        for ((i = 1; i <= $1; i++)); do echo "127.0.0.1 n$i"; done
    } >"$cluster/hosts"
    cat >"$cluster/prolog" <<CONF
#!/bin/sh
echo "export TMPDIR=$cluster/tmp/\$SLURMD_NODENAME"
CONF
    chmod 755 "$cluster/prolog"
    port=$(cluster_port "$port")
    # cred_expire: so long a requeued job waits at least (default 120 s). config_overrides: more CPUs than there are.
    cat >"$cluster/slurm.conf" <<CONF
ClusterName=throwaway
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/s,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool/%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.%n.pid
SlurmctldLogFile=$cluster/log/slurmctld
SlurmdLogFile=$cluster/log/%n
TmpFS=$cluster/tmp/%n
TaskProlog=$cluster/prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
ReturnToService=2
MinJobAge=3600
SlurmctldTimeout=10
SlurmdTimeout=6
InactiveLimit=0
KillWait=5
UnkillableStepTimeout=20
CONF
    for ((i = 1; i <= $1; i++)); do
        port=$(cluster_port $((port + 1)))
        echo "NodeName=n$i NodeHostname=localhost NodeAddr=127.0.0.1 Port=$port CPUs=$2 RealMemory=4000 State=UNKNOWN"
    done >>"$cluster/slurm.conf"
    cat >>"$cluster/slurm.conf" <<CONF
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

# ---- the keeper, first process of the cluster's namespace -----------------------------------------

keeper_spawn() # slurmctld or the name of a node
{
    case $1 in
    slurmctld) slurmctld -D >>"$cluster/log/$1.out" 2>&1 </dev/null & ;;
    *)
        # A step of the same number may come again, and PMIx stumbles over what the one that died with the node left.
        rm -rf "$cluster/spool/$1"/{stepd.slurm.,}pmix.*
        # shellcheck disable=SC2016
        unshare --mount --uts --pid --fork --kill-child --mount-proc bash -c '
            mount -t tmpfs -o mode=1777 tmpfs /dev/shm && mount --bind "$2/hosts" /etc/hosts && hostname "$1" || exit 1
            slurmd -D -N "$1" & # not exec: the first process of a namespace must reap orphans, as bash does
            wait' node "$1" "$cluster" >>"$cluster/log/$1.out" 2>&1 </dev/null & ;;
    esac
    pids[$1]=$!
}

keeper()
{
    local order name answer i
    declare -A pids
    export SLURM_CONF=$cluster/slurm.conf
    munged --foreground --force --num-threads=2 --key-file="$cluster/munge/key" --socket="$cluster/munge/s" \
        --pid-file="$cluster/munge/pid" --log-file="$cluster/log/munged" --seed-file="$cluster/munge/seed" </dev/null &
    for ((i = 0; i < 200; i++)); do
        [ ! -S "$cluster/munge/s" ] || break
        sleep 0.05
    done
    keeper_spawn slurmctld
    for ((i = 1; i <= $1; i++)); do keeper_spawn "n$i"; done
    while read -r order name answer; do
        case $order in
        start) keeper_spawn "$name" ;;
        kill)
            kill -9 "${pids[$name]}"
            wait "${pids[$name]}" ;;
        esac
        : >"$answer"
    done
}

if [ "${1:-}" = keep ] && [ "${BASH_SOURCE[0]}" = "$0" ]; then
    cluster=$2
    keeper "$3"
fi
