#!/usr/bin/env bash
# Trains on a Cloud TPU VM:  bash launch/tpu.sh [flags] <action> [-- flags of mgcma_jax.train]
#
#   create   asks for the TPU as a queued resource and waits until it is there
#   setup    copies this commit to it, installs it, fetches data and runs from the bucket
#   run      trains; after a preemption creates, sets up and goes on
#   logs     follows what training says
#   fetch    copies runs/ here: from the VM or, where there is none, from the bucket
#   delete   gives the TPU back
#   all      create, setup, run, fetch, delete; also when it is interrupted or fails
#
#   --project --zone --type --runtime --name --bucket   =value
#   --spot=yes|no    a spot VM is cheaper and may be preempted
#   --hours=N        over all: how long to wait for the TPU and to train
#   --poll=SECONDS   between two looks at it
#   --env=FILE       the same without dashes, in capitals (TYPE=v4-8), a line each
#   --dry-run        prints the commands and calls none
#
# The bucket holds data/, which all runs read, and gets <name>/runs/.
#
# Ends with 0, or 2 wrong usage, 3 not there, 4 no permission, 5 no quota or
# capacity, 6 the request failed or was suspended, 7 over time, 8 the training
# command failed (it is not tried again), 1 anything else. gcloud's own login is
# used; no key is given to this script.
set -euo pipefail

declare -A OPTION=([RUNTIME]='' [NAME]=mgcma [BUCKET]='' [SPOT]=yes [HOURS]=12 [POLL]=60)
KNOWN=' PROJECT ZONE TYPE RUNTIME NAME BUCKET SPOT HOURS POLL '
FLAGS=() # of mgcma_jax.train
BEGUN=   # whether training was
DRY=
LOOK=120     # s, that gcloud may take for a look
LONGEST=3600 # s, for anything else
GRACE=300    # s, for the step and its checkpoint after `stop`
ENDED=training-ended # what the VM answers, before the exit code
WORKER='bash mgcma_jax/launch/tpu_worker.sh'

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

runtime() { # of the TPU's type, where none is given
  case ${OPTION[RUNTIME]:-${OPTION[TYPE]}} in
    v5litepod*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v6e*) echo v2-alpha-tpuv6e ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) echo "${OPTION[RUNTIME]}" ;;
  esac
}

# Runs gcloud for so long at most; shows its errors, and returns this script's
# exit code for them.
cloud() { # <seconds> <gcloud's arguments>
  local limit=$1 errors code=0
  shift
  if [ -n "$DRY" ]; then
    printf 'gcloud'
    printf ' %q' "$@"
    echo
    return
  fi
  errors=$(mktemp)
  # Quiet, as a question could not be seen.
  timeout --foreground "$limit" gcloud --quiet "$@" 2>"$errors" </dev/null || code=$?
  if [ "$code" -ne 0 ]; then
    code=$(kind_of "$errors" "$1")
    sed 's/^/  /' "$errors" >&2
  fi
  rm -f "$errors"
  return "$code"
}

kind_of() { # <file with what gcloud said> <compute or storage>
  # A command on the VM may use gcloud's storage and say the like.
  case $(grep "^ERROR: (gcloud\\.$2" "$1") in
    *PERMISSION_DENIED* | *UNAUTHENTICATED* | *'active account'* | *'not have permission'*) echo 4 ;;
    *RESOURCE_EXHAUSTED* | *[Qq]uota* | *'no more capacity'*) echo 5 ;;
    *NOT_FOUND*) echo 3 ;;
    *) echo 1 ;;
  esac
}

ended_with() { # <exit code> <what was tried>: ends with the cure
  local name=${OPTION[NAME]} zone=${OPTION[ZONE]} project=${OPTION[PROJECT]}
  case $1 in
    3) die 3 "$2: $name is not there in $zone: bash launch/tpu.sh create" ;;
    4) die 4 "$2: no permission in $project: gcloud auth login, and ask for the role TPU Admin there" ;;
    5) die 5 "$2: no quota or capacity for ${OPTION[TYPE]} in $zone: take another --zone or --type, or ask for quota" ;;
    *) die "$1" "$2 failed" ;;
  esac
}

# shellcheck disable=SC2046  # two words, here and below
queued() { # <seconds> <verb> [flags]
  cloud "$1" compute tpus queued-resources "$2" "${OPTION[NAME]}" $(place) "${@:3}"
}

place() { echo "--project=${OPTION[PROJECT]}" "--zone=${OPTION[ZONE]}"; }

# shellcheck disable=SC2046
on_vm() { # <seconds> <worker> <command>
  cloud "$1" compute tpus tpu-vm ssh "${OPTION[NAME]}" $(place) "--worker=$2" "--command=$3"
}

in_time() { [ "$SECONDS" -lt "$((OPTION[HOURS] * 3600))" ]; }

# Its state, or UNKNOWN where gcloud did not answer this time; ends where it
# never will.
look() {
  local state code=0
  state=$(queued "$LOOK" describe '--format=value(state.state)') || code=$?
  case $code in
    0) echo "$state" ;;
    3 | 4) ended_with "$code" 'looking at the TPU' ;;
    *) echo UNKNOWN ;;
  esac
}

request() {
  local spot=()
  [ "${OPTION[SPOT]}" = no ] || spot=(--spot)
  queued "$LONGEST" create "--node-id=${OPTION[NAME]}" "--accelerator-type=${OPTION[TYPE]}" \
    "--runtime-version=$(runtime)" "--valid-until-duration=${OPTION[HOURS]}h" "${spot[@]}" || ended_with $? 'asking for a TPU'
}

await() {
  [ -z "$DRY" ] || return 0
  local state
  while :; do
    state=$(look) || exit $?
    echo "$(date +%T) ${OPTION[NAME]}: $state"
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED) die 6 "the request is $state: bash launch/tpu.sh delete, then create, in another --zone or with --spot=no" ;;
    esac
    in_time || die 7 "waiting for the TPU took more than --hours=${OPTION[HOURS]}: bash launch/tpu.sh delete takes the request back"
    sleep "${OPTION[POLL]}"
  done
}

create() {
  request
  await
}

# What went wrong on a TPU that was taken away meanwhile is no failure: 6.
failed() { # <exit code> <what was tried>
  case $(look) in
    SUSPENDING | SUSPENDED) echo "$(date +%T) preempted" && return 6 ;;
  esac
  ended_with "$1" "$2"
}

# shellcheck disable=SC2046
setup() {
  local packed=mgcma_jax.tar.gz code=0
  if [ -z "$DRY" ]; then
    packed=$(mktemp --suffix=.tar.gz)
    git archive --format=tar.gz --output="$packed" HEAD
  fi
  cloud "$LONGEST" compute tpus tpu-vm scp "$packed" "${OPTION[NAME]}:mgcma_jax.tar.gz" $(place) --worker=all || code=$?
  [ -n "$DRY" ] || rm "$packed"
  [ "$code" -eq 0 ] || failed "$code" 'copying the code' || return
  on_vm "$LONGEST" all "mkdir -p mgcma_jax && tar -xzf mgcma_jax.tar.gz -C mgcma_jax && $WORKER setup $(printf '%q ' "${OPTION[BUCKET]}" "${OPTION[NAME]}")" ||
    failed $? 'setting up'
}

start() {
  BEGUN=1
  on_vm "$LONGEST" all "$WORKER start $(printf '%q ' "${OPTION[BUCKET]}" "${OPTION[NAME]}" "${FLAGS[@]}")" || failed $? 'starting'
}

# The exit code of training, 'killed', or nothing while it goes on or where the
# VM does not answer, as one that is just being taken away.
training_ended() {
  local said
  said=$(on_vm "$LOOK" 0 "$WORKER status" 2>/dev/null) || return 0
  [[ $said != "$ENDED "* ]] || echo "${said#"$ENDED "}"
}

# Waits for the end of training: 0, 6 preempted, 7 over time, 8 it failed.
watch() {
  [ -z "$DRY" ] || return 0
  local state code
  while :; do
    state=$(look) || exit $?
    case $state in
      ACTIVE)
        code=$(training_ended)
        case $code in
          '') ;;
          0) return 0 ;;
          *)
            # One host of several may have gone just before.
            case $(look) in SUSPENDING | SUSPENDED) continue ;; esac
            on_vm "$LOOK" 0 "$WORKER tail" >&2 || true
            echo "tpu.sh: training ended with $code and is not tried again: mend what it says" >&2
            return 8
            ;;
        esac
        ;;
      SUSPENDED | FAILED)
        echo "$(date +%T) preempted ($state)"
        return 6
        ;;
      DELETING) die 3 'somebody deletes the TPU' ;;
    esac
    if ! in_time; then
      echo "tpu.sh: training took more than --hours=${OPTION[HOURS]}; the same command goes on" >&2
      stop
      return 7
    fi
    sleep "${OPTION[POLL]}"
  done
}

# Until the step is finished and saved.
stop() {
  local deadline=$((SECONDS + GRACE))
  on_vm "$LOOK" all "$WORKER stop" || return 0
  while [ -z "$(training_ended)" ] && [ "$SECONDS" -lt "$deadline" ]; do
    sleep "${OPTION[POLL]}"
  done
}

train() { start && watch; }

set_up_and_train() { setup && train; }

# Runs the command; after a preemption, on another TPU, sets up and trains.
through_preemptions() { # <command>
  local code=0
  "$1" || code=$?
  while [ "$code" -eq 6 ]; do
    code=0
    delete
    create
    set_up_and_train || code=$?
  done
  return "$code"
}

run() { through_preemptions train; }

logs() {
  on_vm 0 0 "$WORKER follow" || ended_with $? 'following the log'
}

# shellcheck disable=SC2046
fetch() {
  local code=0
  cloud "$LONGEST" compute tpus tpu-vm scp --recurse "${OPTION[NAME]}:mgcma_jax/runs" . $(place) --worker=0 || code=$?
  if [ "$code" -ne 0 ] && [ -n "${OPTION[BUCKET]}" ]; then
    mkdir -p runs
    code=0
    cloud "$LONGEST" storage rsync --recursive "gs://${OPTION[BUCKET]}/${OPTION[NAME]}/runs" runs || code=$?
  fi
  [ "$code" -eq 0 ] || ended_with "$code" 'fetching'
}

delete() {
  queued "$LONGEST" delete --force || ended_with $? 'deleting'
}

# Nobody shall pay for an idle TPU, nor lose what it has computed.
give_back() {
  trap - EXIT
  if [ -n "$BEGUN" ]; then
    (fetch) || die 1 'the results are still on the TPU, which is paid for until: bash launch/tpu.sh fetch, then delete'
  fi
  delete
}

interrupted() { # <exit code>: it stays
  [ -z "$BEGUN" ] || stop
  (give_back) || true
  exit "$1"
}

all() {
  local code=0
  request
  trap 'interrupted $?' EXIT
  await
  through_preemptions set_up_and_train || code=$?
  give_back
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
[ -n "$(runtime)" ] || die 2 "--runtime is missing: only those of v2 to v6e are known"
[[ ${OPTION[HOURS]} =~ ^[0-9]+$ && ${OPTION[POLL]} =~ ^[0-9.]+$ ]] || die 2 "--hours=${OPTION[HOURS]} and --poll=${OPTION[POLL]} must be numbers"
[[ ${OPTION[SPOT]} =~ ^(yes|no)$ ]] || die 2 "--spot=${OPTION[SPOT]} must be yes or no"
[ -n "$DRY" ] || command -v gcloud >/dev/null || die 3 'gcloud is not installed: see the Google Cloud CLI'

cd "$(dirname "${BASH_SOURCE[0]}")/.."
FLAGS=("$@")
"$action"
