#!/usr/bin/env bash
# Trains on every host of a Cloud TPU pod slice: launch/tpu_pod.sh TPU ZONE WORKDIR CONFIG [--config.key=value...]
# WORKDIR is in a bucket (gs://BUCKET/run), or a folder that all hosts share (Filestore). PYTHON names
# the hosts' interpreter, 3.11 or 3.12. With SLICES=2 or more, TPU is a queued resource of so many
# slices, whose hosts know of each other. No TPU has run this; tests run it with gcloud replaced.
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

tool=(gcloud compute tpus tpu-vm)
everywhere=(--worker=all --zone="$zone")
if [[ ${SLICES:-1} != 1 ]]; then
  tool=(gcloud alpha compute tpus queued-resources)
  everywhere+=(--node=all)
  set -- "--config.mesh.slice=$SLICES" "$@"
fi
root=$(cd "$(dirname "$0")/.." && pwd)
on_hosts() {
  "${tool[@]}" ssh "$tpu" "${everywhere[@]}" --command="$1"
}
# Copying several folders needs one that is there.
on_hosts "mkdir -p unityvideo"
"${tool[@]}" scp --recurse "${everywhere[@]}" \
  "$root/unityvideo_jax" "$root/configs" "$root/data" "$root/setup.py" "$root/README.md" "$tpu:unityvideo/"
flags=$(printf ' %q' "--config=$config" "--workdir=$workdir" "$@")
on_hosts "
  cd unityvideo && ${PYTHON:-python3} -m venv .venv && .venv/bin/pip install --quiet '.[tpu,gcs]' &&
  UNITYVIDEO_HOSTS=auto .venv/bin/python -m unityvideo_jax.train$flags"
