#!/usr/bin/env bash
# A real SLURM cluster on this one machine, for tests: two nodes (two slurmd), accounting, all of it on 127.0.0.1.
#   tests/slurm/start_slurm.sh [FOLDER]      as root on Debian; FOLDER is /tmp/umbel-slurm by default
#   . FOLDER/environment.sh                  exports SLURM_CONF, which is all that sbatch, srun and submitit need
# Said again it starts what is not running and leaves the rest alone: so a test brings back a daemon that it killed.
# Missing packages are installed. UMBEL_SLURM_PORT (21700) is the first of five ports.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${1:-/tmp/umbel-slurm}
port=${UMBEL_SLURM_PORT:-21700}
nodes=(umbel1 umbel2)
fail() { echo "start_slurm: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "must be root"

# --- Packages
wanted=()
for pair in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client slurmdbd:slurmdbd mariadbd:mariadb-server; do
  command -v "${pair%%:*}" >/dev/null || wanted+=("${pair##*:}")
done
if [ ${#wanted[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "not installed: ${wanted[*]}"
  echo "start_slurm: installing ${wanted[*]}"
  # A package must not start its own service: the answer 101 forbids it. A policy that is there already is kept.
  policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; made=1; fi
  install=(apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${wanted[@]}")
  export DEBIAN_FRONTEND=noninteractive
  told=$(mktemp) well=1
  "${install[@]}" >"$told" 2>&1 || { apt-get update -qq && "${install[@]}"; } >"$told" 2>&1 || well=
  [ -z "$made" ] || rm -f $policy
  [ -n "$well" ] || { tail -5 "$told" >&2; fail "apt-get could not install ${wanted[*]}"; }
fi

# --- The folder, one starter at a time
mkdir -p "$root"
root=$(cd "$root" && pwd)
chmod 755 "$root"
# Daemons inherit descriptors: each is started with 9>&-, or it would hold the lock for as long as it lives.
exec 9>"$root/lock"
flock -w 120 9 || fail "$root is being started or stopped by another"
mkdir -p "$root"/{munge,state,spool,log,gpu,database}
chmod 755 "$root/munge"

# Names of nodes must resolve: the first one becomes MASTER_ADDR.
for node in "${nodes[@]}"; do
  grep -qw "$node" /etc/hosts || echo "127.0.0.1 $node # umbel test cluster" >>/etc/hosts
done
# CUDA_VISIBLE_DEVICES is set for devices that are character devices; /dev/null is one, and 1 3 are its numbers.
for number in 0 1; do
  [ -e "$root/gpu/$number" ] || mknod -m 666 "$root/gpu/$number" c 1 3 2>/dev/null || : >"$root/gpu/$number"
done

# --- Configuration
fill() { sed -e "s#@ROOT@#$root#g" -e "s#@HOST@#$(hostname -s)#g" -e "s#@PORT@#$port#g" -e "s#@DATABASE_PORT@#$((port + 1))#g" \
  -e "s#@NODE1_PORT@#$((port + 3))#g" -e "s#@NODE2_PORT@#$((port + 4))#g" "$here/$1.template" >"$root/$1"; }
fill slurm.conf
fill slurmdbd.conf
chmod 600 "$root/slurmdbd.conf"
for node in "${nodes[@]}"; do
  echo "NodeName=$node Name=gpu File=$root/gpu/[0-1] Flags=nvidia_gpu_env"
done >"$root/gres.conf"
echo "export SLURM_CONF=$root/slurm.conf" >"$root/environment.sh"
export SLURM_CONF=$root/slurm.conf

# --- Daemons
running() {  # PIDFILE NAME: a number may be another's by now, and a zombie runs no more
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && grep -qs "^Name:.$2$" "/proc/$pid/status" &&
    ! grep -q '^State:.Z' "/proc/$pid/status"
}
until_true() {  # SECONDS WHAT LOG COMMAND...
  local end=$((SECONDS + $1)) what=$2 log=$3
  shift 3
  until timeout 10 "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { tail -5 "$log" >&2 || :; fail "$what does not answer (see $log)"; }
    sleep 0.2
  done
}

socket=$root/munge/socket
if ! running "$root/munge/munged.pid" munged; then
  [ -s "$root/munge/key" ] || (umask 077 && head -c 512 /dev/urandom >"$root/munge/key")
  rm -f "$socket" "$socket.lock"
  # --force: a parent folder that others may write to is a warning only
  munged --force --socket="$socket" --key-file="$root/munge/key" --pid-file="$root/munge/munged.pid" \
    --seed-file="$root/munge/seed" --log-file="$root/log/munged" 9>&-
fi
until_true 20 munged "$root/log/munged" munge -n -S "$socket"

database=$root/database/socket
if ! running "$root/database/pid" mariadbd; then
  [ -d "$root/database/data/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$root/database/data" \
    --auth-root-authentication-method=socket --skip-test-db >"$root/log/database-install" 2>&1
  setsid mariadbd --no-defaults --user=root --datadir="$root/database/data" --socket="$database" --skip-networking \
    --pid-file="$root/database/pid" --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 \
    --innodb-lock-wait-timeout=900 --log-error="$root/log/mariadbd" </dev/null >/dev/null 2>&1 9>&- &
fi
until_true 60 mariadbd "$root/log/mariadbd" mariadb --no-defaults -uroot --socket="$database" -e 'select 1'
export MYSQL_UNIX_PORT=$database  # slurmdbd finds the socket by it
if ! running "$root/slurmdbd.pid" slurmdbd; then
  rm -f "$root/slurmdbd.pid"
  slurmdbd 9>&-
fi
until_true 60 slurmdbd "$root/log/slurmdbd" sacctmgr -n show cluster

if ! running "$root/slurmctld.pid" slurmctld; then
  rm -f "$root/slurmctld.pid"
  (cd "$root" && slurmctld -i 9>&-)
fi
until_true 60 slurmctld "$root/log/slurmctld" scontrol ping
for node in "${nodes[@]}"; do
  if ! running "$root/slurmd-$node.pid" slurmd; then
    rm -f "$root/slurmd-$node.pid"
    mkdir -p "$root/spool/$node"
    (cd "$root" && slurmd -N "$node" 9>&-)
  fi
done

ready() {  # nodes that an earlier failure took out come back by a resume, which is refused where it is not needed
  local node
  for node in "${nodes[@]}"; do
    scontrol show node "$node" | grep -qE 'State=[A-Z+]*(DOWN|DRAIN|NOT_RESPONDING|UNKNOWN)' || continue
    scontrol update nodename="$node" state=resume || :
    return 1
  done
}
end=$((SECONDS + 60))
until ready >/dev/null 2>&1; do
  [ $SECONDS -lt $end ] || { sinfo -N -l >&2; fail "the nodes do not come up (see $root/log)"; }
  sleep 0.3
done
echo "start_slurm: nodes ${nodes[*]} are up; now: . $root/environment.sh"
