#!/usr/bin/env bash
# The main job on the rehearsal corpus, from nothing:  bash launch/try.sh
# Makes .venv, the corpus, its shards and a trained fold; what is there already
# is used again.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"
environment prep

release=data/rehearsal_release
shards=data/rehearsal
run=runs/rehearsal

python -m data_prep.rehearsal --out "$release"
if [ -d "$shards" ]; then
  echo "Using the shards in $shards"
else
  python -m data_prep.iemocap --source "$release" --out "$shards" \
    --expected "$release/expected_counts.json" --name rehearsal --train-vocab 400
fi
python -m mgcma_jax.train --config=configs/rehearsal.py --workdir="$run"
echo
echo "The same from the checkpoint (python -m mgcma_jax.evaluate --workdir=$run):"
python -m mgcma_jax.evaluate --workdir="$run"
