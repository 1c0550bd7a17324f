#!/usr/bin/env bash
# On the TPU VM, called by tpu.sh:
#   setup <bucket>           Python, packages; data and runs from the bucket, if there is one
#   train <bucket> <flags>   trains, and ends with its exit code
#   start <bucket> <flags>   the same in the background
#   status                   'training-ended <exit code, or killed>', or nothing while it trains
#   tail, follow             the end of the log; the log as it grows
#   stop                     as SIGTERM does: the step is finished and saved
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p tpu-job
SYNC_SECONDS=${SYNC_SECONDS:-300}

mirror() { # <bucket>: the run's folders into it, those of worker 0
  [ -n "$1" ] && [ -d runs ] && [ "$(worker)" = 0 ] || return 0
  flock tpu-job/mirror gcloud storage rsync --recursive --delete-unmatched-destination-objects runs "gs://$1/runs"
}

worker() { # this one's number, as the VM's metadata say
  curl --silent --fail -H 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number || echo 0
}

setup() { # <bucket>
  if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    sudo apt-get update --quiet
    sudo apt-get install --yes --quiet python3.11 python3.11-venv
    export PYTHON=python3.11
  fi
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  environment tpu
  [ -n "$1" ] || return 0
  local folder
  for folder in data runs; do
    # A new bucket has no runs yet.
    if gcloud storage ls "gs://$1/$folder" >/dev/null 2>&1; then
      mkdir -p "$folder"
      gcloud storage rsync --recursive "gs://$1/$folder" "$folder"
    fi
  done
}

train() { # <bucket> <flags>: until it ends otherwise than by an interruption
  local bucket=$1 code
  shift
  while :; do
    code=0
    .venv/bin/python -m mgcma_jax.train "$@" || code=$?
    mirror "$bucket" || echo 'the bucket could not be written'
    # 75: interrupted and saved, as by the VM's maintenance.
    if [ "$code" -ne 75 ] || [ -e tpu-job/stop ]; then break; fi
  done
  echo "$code" >tpu-job/exit
  return "$code"
}

mirror_now_and_then() { # <bucket>
  while [ ! -e tpu-job/exit ] && kill -0 $$ 2>/dev/null; do
    sleep "$SYNC_SECONDS"
    mirror "$1" || echo 'the bucket could not be written'
  done
}

case ${1:-} in
  setup) setup "$2" ;;
  start)
    rm -f tpu-job/exit tpu-job/stop
    # Its own session, so that it outlives the connection.
    setsid nohup bash launch/tpu_worker.sh train "${@:2}" >>tpu-job/log.txt 2>&1 </dev/null &
    echo $! >tpu-job/pid
    ;;
  train)
    mirror_now_and_then "$2" >>tpu-job/mirror.txt 2>&1 &
    train "${@:2}"
    ;;
  status)
    if [ -e tpu-job/exit ]; then
      echo "training-ended $(cat tpu-job/exit)"
    elif ! kill -0 "$(cat tpu-job/pid)" 2>/dev/null; then
      echo 'training-ended killed'
    fi
    ;;
  tail) tail -n 50 tpu-job/log.txt ;;
  follow) tail -n 50 -F tpu-job/log.txt ;;
  stop)
    touch tpu-job/stop
    pkill -TERM -f 'mgcma_jax[.]train' || true
    ;;
  *)
    sed -n '2,9p' launch/tpu_worker.sh >&2
    exit 2
    ;;
esac
