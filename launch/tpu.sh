#!/usr/bin/env bash
# Trains on a Cloud TPU VM:  bash launch/tpu.sh [flags] <action> [-- flags of mgcma_jax.train]
#
#   create   asks for the TPU as a queued resource and waits until it is there
#   setup    copies this commit to it, installs it, fetches data and run from the bucket
#   run      trains; after a preemption creates, sets up and goes on
#   logs     follows what training says
#   fetch    copies the run's folder here, into runs/
#   delete   gives the TPU back
#   all      create, setup, run, fetch, delete; deletes whatever happened before
#
#   --project --zone --type --runtime --name --bucket   =value
#   --spot=yes|no    a spot VM is cheaper and may be preempted
#   --hours=N        over all: how long to wait for the TPU and to train
#   --poll=SECONDS   between two looks at it
#   --env=FILE       the same without dashes, in capitals (TYPE=v4-8), a line each
#   --dry-run        prints the commands and calls none
#
# Ends with 0, or 2 wrong usage, 3 not there, 4 no permission, 5 no quota or
# capacity, 6 the request failed or was suspended, 7 over time, 8 the training
# command failed (it is not tried again), 1 anything else. gcloud's own login is
# used; no key is given to this script.
set -euo pipefail

declare -A OPTION=([RUNTIME]=tpu-ubuntu2204-base [NAME]=mgcma [BUCKET]='' [SPOT]=yes [HOURS]=12 [POLL]=60)
KNOWN=' PROJECT ZONE TYPE RUNTIME NAME BUCKET SPOT HOURS POLL '
DRY=
ENDED=training-ended # what the VM answers, before the exit code

die() { # <exit code> <message>
  echo "tpu.sh: $2" >&2
  exit "$1"
}

set_option() { # <name> <value> <where it stands>
  [[ $KNOWN == *" $1 "* ]] || die 2 "$3: $1 is none of$KNOWN"
  OPTION[$1]=$2
}

read_file() { # <file>: data, never run
  [ -r "$1" ] || die 2 "$1 cannot be read: copy launch/tpu.env.example to it"
  local file=$1 line lines
  mapfile -t lines <"$file"
  for line in "${lines[@]}"; do
    case $line in
      '' | '#'*) ;;
      *=*) set_option "${line%%=*}" "${line#*=}" "$file" ;;
      *) die 2 "$file: '$line' is not NAME=value" ;;
    esac
  done
}

# Runs gcloud; where it fails, says why and ends with the code for it.
cloud() {
  if [ -n "$DRY" ]; then
    printf 'gcloud'
    printf ' %q' "$@"
    echo
    return
  fi
  local errors code=0
  errors=$(mktemp)
  gcloud "$@" 2>"$errors" || code=$?
  if [ "$code" -ne 0 ]; then
    code=$(kind_of "$errors")
    sed 's/^/  /' "$errors" >&2
  fi
  rm -f "$errors"
  return "$code"
}

kind_of() { # <file with what gcloud said>: this script's exit code
  # Its own errors alone: what a command on the VM says is none of them.
  case $(grep '^ERROR: (gcloud' "$1") in
    *PERMISSION_DENIED* | *UNAUTHENTICATED* | *'active account'*) echo 4 ;;
    *RESOURCE_EXHAUSTED* | *[Qq]uota* | *'no more capacity'*) echo 5 ;;
    *NOT_FOUND*) echo 3 ;;
    *) echo 1 ;;
  esac
}

# Why the last `cloud` failed, and the cure.
ended_with() { # <exit code> <what was tried>
  local name=${OPTION[NAME]} zone=${OPTION[ZONE]} project=${OPTION[PROJECT]}
  case $1 in
    3) die 3 "$2: $name is not there in $zone: bash launch/tpu.sh create" ;;
    4) die 4 "$2: no permission in $project: gcloud auth login, and ask for the role TPU Admin there" ;;
    5) die 5 "$2: no quota or capacity for ${OPTION[TYPE]} in $zone: take another --zone or --type, or ask for quota" ;;
    *) die "$1" "$2 failed" ;;
  esac
}

place() { echo "--project=${OPTION[PROJECT]}" "--zone=${OPTION[ZONE]}"; }

queued() { # <verb> [flags]
  local verb=$1
  shift
  # shellcheck disable=SC2046  # two words
  cloud compute tpus queued-resources "$verb" "${OPTION[NAME]}" $(place) "$@"
}

on_vm() { # <worker> <command>
  # shellcheck disable=SC2046
  cloud compute tpus tpu-vm ssh "${OPTION[NAME]}" $(place) "--worker=$1" "--command=$2"
}

state() { queued describe '--format=value(state.state)'; }

in_time() { # <what was waited for>
  [ "$SECONDS" -lt "$((OPTION[HOURS] * 3600))" ] || {
    echo "tpu.sh: $1 took more than --hours=${OPTION[HOURS]}" >&2
    return 7
  }
}

create() {
  local spot=() now
  [ "${OPTION[SPOT]}" = yes ] && spot=(--spot)
  queued create "--node-id=${OPTION[NAME]}" "--accelerator-type=${OPTION[TYPE]}" \
    "--runtime-version=${OPTION[RUNTIME]}" "--valid-until-duration=${OPTION[HOURS]}h" "${spot[@]}" || ended_with $? 'asking for a TPU'
  [ -z "$DRY" ] || return 0
  while :; do
    now=$(state) || ended_with $? 'waiting for the TPU'
    echo "$(date +%T) ${OPTION[NAME]}: $now"
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING) die 6 "the request is $now: bash launch/tpu.sh delete, then create, in another --zone or with --spot=no" ;;
    esac
    in_time 'waiting for the TPU' || exit 7
    sleep "${OPTION[POLL]}"
  done
}

setup() {
  local packed
  packed=$(mktemp -d)/mgcma_jax.tar.gz
  git archive --format=tar.gz --output="$packed" HEAD
  # shellcheck disable=SC2046
  cloud compute tpus tpu-vm scp "$packed" "${OPTION[NAME]}:mgcma_jax.tar.gz" $(place) --worker=all || ended_with $? 'copying the code'
  rm -r "$(dirname "$packed")"
  on_vm all "mkdir -p mgcma_jax && tar -xzf mgcma_jax.tar.gz -C mgcma_jax && bash mgcma_jax/launch/tpu_worker.sh setup $(printf '%q' "${OPTION[BUCKET]}")" ||
    ended_with $? 'setting up'
}

start() { # <flags of train>
  on_vm all "bash mgcma_jax/launch/tpu_worker.sh start $(printf '%q ' "${OPTION[BUCKET]}" "$@")" || ended_with $? 'starting'
}

# Waits for the end of training: 0, 6 preempted, 7 over time, 8 it failed.
watch() {
  local now said
  while :; do
    now=$(state) || ended_with $? 'looking at the TPU'
    case $now in
      ACTIVE) ;;
      *)
        echo "$(date +%T) preempted ($now)"
        return 6
        ;;
    esac
    # A VM that is just being taken away does not answer; its state says so next time.
    said=$(on_vm 0 'bash mgcma_jax/launch/tpu_worker.sh status' 2>/dev/null) || said=
    case $said in
      "$ENDED 0") return 0 ;;
      "$ENDED "*)
        on_vm 0 'bash mgcma_jax/launch/tpu_worker.sh tail' >&2 || true
        echo "tpu.sh: training ended with ${said#"$ENDED "} and is not tried again: mend what it says" >&2
        return 8
        ;;
    esac
    if ! in_time training; then
      on_vm all 'bash mgcma_jax/launch/tpu_worker.sh stop' || true
      return 7
    fi
    sleep "${OPTION[POLL]}"
  done
}

run() { # <flags of train>
  local code
  while :; do
    start "$@"
    [ -z "$DRY" ] || return 0
    code=0
    watch || code=$?
    [ "$code" -eq 6 ] || return "$code"
    delete
    create
    setup
  done
}

logs() {
  on_vm 0 'bash mgcma_jax/launch/tpu_worker.sh follow' || ended_with $? 'following the log'
}

fetch() {
  mkdir -p runs
  if [ -n "${OPTION[BUCKET]}" ]; then
    cloud storage rsync --recursive "gs://${OPTION[BUCKET]}/runs" runs || ended_with $? 'fetching from the bucket'
  else
    # shellcheck disable=SC2046
    cloud compute tpus tpu-vm scp --recurse "${OPTION[NAME]}:mgcma_jax/runs/*" runs $(place) --worker=0 || ended_with $? 'fetching'
  fi
}

delete() {
  queued delete --force --quiet || ended_with $? 'deleting'
}

all() { # <flags of train>
  local code=0
  create
  # Whatever happens from here on, nobody shall pay for an idle TPU.
  trap 'delete' EXIT
  setup
  run "$@" || code=$?
  (fetch) || [ "$code" -ne 0 ] || code=1
  trap - EXIT
  delete
  return "$code"
}

action=
while [ $# -gt 0 ]; do
  case $1 in
    --) shift && break ;;
    --dry-run) DRY=1 ;;
    --env=*) read_file "${1#*=}" ;;
    --*=*)
      name=${1%%=*}
      name=${name#--}
      set_option "${name^^}" "${1#*=}" 'the command line'
      ;;
    create | setup | run | logs | fetch | delete | all) action=$1 ;;
    *) die 2 "$1 is no flag and no action; see the head of launch/tpu.sh" ;;
  esac
  shift
done

[ -n "$action" ] || die 2 'give an action: create, setup, run, logs, fetch, delete or all'
for name in PROJECT ZONE TYPE; do
  [ -n "${OPTION[$name]:-}" ] || die 2 "--${name,,} is missing: give it, or a file that holds it with --env"
done
[[ ${OPTION[HOURS]} =~ ^[0-9]+$ && ${OPTION[POLL]} =~ ^[0-9.]+$ ]] || die 2 "--hours=${OPTION[HOURS]} and --poll=${OPTION[POLL]} must be numbers"
[[ ${OPTION[SPOT]} =~ ^(yes|no)$ ]] || die 2 "--spot=${OPTION[SPOT]} must be yes or no"
[ -n "$DRY" ] || command -v gcloud >/dev/null || die 3 'gcloud is not installed: see the Google Cloud CLI'

cd "$(dirname "${BASH_SOURCE[0]}")/.."
"$action" "$@"
