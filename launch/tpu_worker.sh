#!/usr/bin/env bash
# On the TPU VM, called by tpu.sh and sky.yaml; <bucket> may be '':
#   setup <bucket> <name>           Python, packages; data and runs from the bucket
#   train <bucket> <name> <flags>   trains, and ends with its exit code
#   start <bucket> <name> <flags>   the same in the background, unless it does already
#   status         'training-ended <exit code, or killed>', or nothing while it trains
#   tail, follow   the end of the log; the log as it grows
#   stop           asks training to finish the step and save
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p tpu-job runs
SYNC_SECONDS=${SYNC_SECONDS:-300}

mirror() { # <bucket> <name>: runs into the bucket, those of worker 0
  [ -n "$1" ] && [ "$(worker)" = 0 ] || return 0
  local to=gs://$1/$2/runs
  (
    # What is new first: a mirror that is cut off shall hold a whole checkpoint.
    flock 9 &&
      gcloud storage rsync --recursive runs "$to" &&
      gcloud storage rsync --recursive --delete-unmatched-destination-objects runs "$to"
  ) 9>tpu-job/lock >>tpu-job/mirror.txt 2>&1
}

attribute() { # <name> <what it is without an answer>: of the VM's metadata
  curl --silent --fail -H 'Metadata-Flavor: Google' \
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes/$1" || echo "$2"
}

worker() { attribute agent-worker-number 0; } # this one's number

hosts() { # how many share the slice: one endpoint each, with commas between
  local endpoints
  IFS=, read -ra endpoints <<<"$(attribute worker-network-endpoints one)"
  echo "${#endpoints[@]}"
}

copy_from() { # <folder of the bucket> <folder here>: where there is one
  local said
  if said=$(gcloud storage ls "$1" 2>&1); then
    mkdir -p "$2"
    gcloud storage rsync --recursive "$1" "$2"
  elif [[ $said != *'matched no objects'* ]]; then
    # Training from the start would take the place of what is there.
    echo "$said" >&2
    return 1
  fi
}

setup() { # <bucket> <name>
  if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    local wait=(-o DPkg::Lock::Timeout=300) # a new VM updates itself
    sudo apt-get "${wait[@]}" update --quiet
    sudo apt-get "${wait[@]}" install --yes --quiet python3.11 python3.11-venv
    export PYTHON=python3.11
  fi
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  environment tpu
  [ -n "$1" ] || return 0
  copy_from "gs://$1/data" data
  copy_from "gs://$1/$2/runs" runs
}

train() { # <bucket> <name> <flags>: until it ends otherwise than by an interruption
  local bucket=$1 name=$2 code together=()
  shift 2
  rm -f tpu-job/exit tpu-job/stop
  if [ "$(hosts)" -gt 1 ]; then
    together=(--processes=auto "--config.checkpoint_root=gs://$bucket/$name/checkpoints")
    [ -n "$bucket" ] || {
      echo "error: $(hosts) hosts share their checkpoints in a bucket: give one" >&2
      echo 2 >tpu-job/exit
      return 2
    }
  fi
  mirror_now_and_then "$bucket" "$name" </dev/null >/dev/null 2>&1 &
  while :; do
    code=0
    .venv/bin/python -m mgcma_jax.train "$@" "${together[@]}" || code=$?
    # 75: interrupted and saved, as by the VM's maintenance; or another host's
    # process was lost, which XLA may tell by an abort.
    if [ ${#together[@]} -gt 0 ] && [ "$code" -eq 134 ]; then code=75; fi
    if [ "$code" -ne 75 ] || [ -e tpu-job/stop ]; then break; fi
  done
  mirror "$bucket" "$name" || echo 'the bucket could not be written: see tpu-job/mirror.txt'
  echo "$code" >tpu-job/exit.new
  mv tpu-job/exit.new tpu-job/exit
  return "$code"
}

mirror_now_and_then() { # <bucket> <name>
  while sleep "$SYNC_SECONDS" && [ ! -e tpu-job/exit ] && kill -0 $$; do
    mirror "$1" "$2" || true
  done
}

runs_already() { [ ! -e tpu-job/exit ] && kill -0 "$(cat tpu-job/pid)"; } 2>/dev/null

status() {
  if ! runs_already && [ ! -e tpu-job/exit ]; then
    echo 'training-ended killed'
  elif [ -e tpu-job/exit ]; then
    echo "training-ended $(cat tpu-job/exit)"
  fi
}

start() { # <bucket> <name> <flags>
  if runs_already; then
    echo 'training goes on'
    return
  fi
  rm -f tpu-job/exit
  # Its own session, so that it outlives the connection.
  setsid nohup bash launch/tpu_worker.sh train "$@" >>tpu-job/log.txt 2>&1 </dev/null &
  echo $! >tpu-job/pid
}

stop() {
  [ ! -e tpu-job/stop ] || return 0 # a second signal would end it at once
  touch tpu-job/stop
  pkill -TERM -P "$(cat tpu-job/pid)" -f 'mgcma_jax[.]train' || true
}

case ${1:-} in
  setup | train | start | status | stop) "$@" ;;
  tail) tail -n 50 tpu-job/log.txt ;;
  follow) tail -n 50 -F tpu-job/log.txt ;;
  *)
    sed -n '2,9p' launch/tpu_worker.sh >&2
    exit 2
    ;;
esac
