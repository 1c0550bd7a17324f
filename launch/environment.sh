# shellcheck shell=bash
# Sourced, not run: `environment <extras>` makes or updates .venv and puts it
# first on PATH. PYTHON names another interpreter (3.11 to 3.13), VENV another
# folder than .venv.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

environment() {
  local extras=$1 python=${PYTHON:-python3} venv=${VENV:-.venv}
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
    echo "$("$python" --version) is not supported: name one from 3.11 to 3.13 with PYTHON=…" >&2
    exit 1
  }
  if [ -x "$venv/bin/python" ] && [ "$("$venv/bin/python" --version)" != "$("$python" --version)" ]; then
    echo "$venv holds $("$venv/bin/python" --version), not $("$python" --version): remove it, or name another folder with VENV=…" >&2
    exit 1
  fi
  # pip alone takes a while to find that nothing changed; a stamp is quicker.
  local wanted
  wanted="$extras $("$python" --version) $(cat pyproject.toml launch/constraints.txt | sha256sum)"
  if [ "$(cat "$venv/installed-$extras" 2>/dev/null)" != "$wanted" ]; then
    echo "Installing mgcma_jax[$extras] into $venv …"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --constraint launch/constraints.txt --editable ".[$extras]"
    echo "$wanted" > "$venv/installed-$extras"
  fi
  PATH="$(cd "$venv/bin" && pwd):$PATH"
  export PATH
}
