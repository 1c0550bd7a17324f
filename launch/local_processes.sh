#!/usr/bin/env bash
# Trains with several processes of this machine, as the hosts of a TPU slice do:
#   bash launch/local_processes.sh <processes> --config=… --workdir=… [flags]
# Each takes one GPU where there are some; else they share the processor. What the
# first says is shown, what the others say goes to <workdir>/process<number>.txt.
# Ctrl-C, or SIGTERM to this script or to any of them, saves and stops all; the
# same command goes on.
set -euo pipefail

processes=${1:-} workdir=
case $processes in
  '' | *[!0-9]* | 0)
    sed -n '2,7p' "$0" >&2
    exit 2
    ;;
esac
shift
for flag; do
  case $flag in
    --workdir=*) workdir=${flag#--workdir=} ;;
  esac
done
[ -n "$workdir" ] || {
  echo 'error: --workdir=… is missing' >&2
  exit 2
}
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || gpus=0
if [ "$gpus" -gt 0 ] && [ "$processes" -gt "$gpus" ]; then
  echo "error: $processes processes, and $gpus GPUs: start at most $gpus" >&2
  exit 2
fi

mkdir -p "$workdir"
port=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
pids=()
for ((i = 0; i < processes; i++)); do
  [ "$gpus" = 0 ] || export CUDA_VISIBLE_DEVICES=$i
  (
    [ "$i" = 0 ] || exec >>"$workdir/process$i.txt" 2>&1
    exec python -m mgcma_jax.train "--processes=localhost:$port,$processes,$i" "$@"
  ) &
  pids+=($!)
done

trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
code=0
for ((i = 0; i < processes; i++)); do
  while kill -0 "${pids[i]}" 2>/dev/null; do
    wait "${pids[i]}" || true # a signal ends it early
  done
  own=0
  wait "${pids[i]}" || own=$?
  [ "$own" = 0 ] || [ "$i" = 0 ] || echo "process $i ended with $own: see $workdir/process$i.txt" >&2
  [ "$code" != 0 ] || code=$own
done
exit "$code"
