#!/usr/bin/env bash
# Trains on every host of a Cloud TPU pod slice: launch/tpu_pod.sh TPU ZONE WORKDIR CONFIG [--config.key=value...]
# WORKDIR is in a bucket (gs://BUCKET/run), or a folder that all hosts share (Filestore). PYTHON names
# the hosts' interpreter, 3.11 or 3.12.
set -euo pipefail

if [[ $# -lt 4 ]]; then
  echo "usage: launch/tpu_pod.sh TPU ZONE WORKDIR CONFIG [--config.key=value...]" >&2
  exit 2
fi
tpu=$1
zone=$2
workdir=$3
config=$4
shift 4

root=$(cd "$(dirname "$0")/.." && pwd)
on_hosts() {
  gcloud compute tpus tpu-vm ssh "$tpu" --worker=all --zone="$zone" --command="$1"
}
# Copying several folders needs one that is there.
on_hosts "mkdir -p unityvideo"
gcloud compute tpus tpu-vm scp --recurse --worker=all --zone="$zone" \
  "$root/unityvideo_jax" "$root/configs" "$root/data" "$root/setup.py" "$root/README.md" "$tpu:unityvideo/"
flags=$(printf ' %q' "--config=$config" "--workdir=$workdir" "$@")
on_hosts "
  cd unityvideo && ${PYTHON:-python3} -m venv .venv && .venv/bin/pip install --quiet '.[tpu,gcs]' &&
  UNITYVIDEO_HOSTS=auto .venv/bin/python -m unityvideo_jax.train$flags"
