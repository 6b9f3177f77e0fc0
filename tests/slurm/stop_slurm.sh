#!/usr/bin/env bash
# Stop the cluster that start_slurm.sh started in FOLDER, and remove the folder (--keep leaves it, with its logs).
#   tests/slurm/stop_slurm.sh [--keep] [FOLDER]
# Only processes are ended whose numbers stand in FOLDER and whose names are right.
set -uo pipefail
keep=
[ "${1:-}" = --keep ] && { keep=1; shift; }
root=${1:-/tmp/umbel-slurm}
[ -e "$root/slurm.conf" ] || { echo "stop_slurm: there is no cluster at $root"; exit 0; }
exec 9>"$root/lock"
flock -w 120 9 || { echo "stop_slurm: $root is being started or stopped by another" >&2; exit 1; }
export SLURM_CONF=$root/slurm.conf
lives() { grep -qs "^Name:.$2$" "/proc/$1/status" && ! grep -q '^State:.Z' "/proc/$1/status"; }
stop() {  # PIDFILE NAME
  local pid tries
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 0
  for ((tries = 0; tries < 100; tries++)); do
    lives "$pid" "$2" || break
    [ $tries -gt 0 ] || kill "$pid"
    sleep 0.1
  done
  ! lives "$pid" "$2" || kill -KILL "$pid"
  rm -f "$1"
}
# Steps outlive their slurmd: jobs are canceled first.
if lives "$(cat "$root/slurmctld.pid" 2>/dev/null)" slurmctld; then
  timeout 10 scancel --user=root >/dev/null 2>&1
  for ((tries = 0; tries < 60; tries++)); do
    [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
    sleep 0.2
  done
fi
for file in "$root"/slurmd-*.pid; do stop "$file" slurmd; done
stop "$root/slurmctld.pid" slurmctld
stop "$root/slurmdbd.pid" slurmdbd
stop "$root/database/pid" mariadbd
stop "$root/munge/munged.pid" munged
if [ -z "$keep" ]; then
  others=$(grep -v '# umbel test cluster$' /etc/hosts)
  echo "$others" >/etc/hosts  # written in place: in containers it is mounted and cannot be replaced
  rm -rf --one-file-system "$root"
fi
echo "stop_slurm: stopped $root"
