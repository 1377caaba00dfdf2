#!/usr/bin/env bash
# One job of several processes on this machine: launch/local.sh PROCESSES program [flags...]
# If one process fails, the others are stopped, and its status is the job's.
set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh PROCESSES unityvideo_jax.PROGRAM [--flags...]" >&2
  exit 2
fi
count=$1
program=$2
shift 2

hosts="localhost:${PORT:-8476}"
for ((n = 1; n < count; n++)); do hosts+=",localhost"; done

pids=()
interrupted=0
# shellcheck disable=SC2329  # the trap calls it
stop() {
  interrupted=1
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap stop TERM INT
for ((n = 0; n < count; n++)); do
  UNITYVIDEO_HOSTS=$hosts UNITYVIDEO_PROCESS_ID=$n "${PYTHON:-python3}" -m "$program" "$@" &
  pids+=($!)
done

status=0
left=$count
while ((left > 0)); do
  code=0
  wait -n || code=$?
  if ((interrupted)); then
    # The signal ended the wait, not a process: wait for all to save.
    interrupted=0
    continue
  fi
  left=$((left - 1))
  if ((code != 0 && status == 0)); then
    status=$code
    echo "launch/local.sh: a process ended with status $code; stopping the others" >&2
    sleep 1
    kill -KILL "${pids[@]}" 2>/dev/null || true
  fi
done
exit "$status"
