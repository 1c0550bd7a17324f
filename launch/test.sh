#!/usr/bin/env bash
# Sets up .venv and runs the tests:  bash launch/test.sh [--torch] [--tf] [pytest's arguments]
#   --torch  also the comparison with PyTorch (Python 3.11; installs torch)
#   --tf     also reads the shards through TFDS (installs TensorFlow)
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

extras=test torch=
while [ $# -gt 0 ]; do
  case $1 in
    --torch) torch=1 ;;
    --tf) extras=test,tf ;;
    *) break ;;
  esac
  shift
done

environment "$extras"
# A range, or torch without its version, would fetch the CUDA build.
[ -z "$torch" ] || python -c 'import torch' 2>/dev/null || python -m pip install --quiet torch==2.13.0
python -m pytest "$@"
