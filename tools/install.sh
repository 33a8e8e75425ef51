#!/bin/sh
# Makes the virtual environment and installs the package into it, unless that is
# done already: tools/install.sh [test|bench|docs]
#
# PYTHON  the interpreter; by default the first one that is new enough
# VENV    the environment, .venv by default; remade for another Python version
# CONSTRAINTS  the versions, by default those tested with this Python
set -eu
cd "$(dirname "$0")/.."
extra=${1:-}
venv=${VENV:-.venv}
log=$venv/install.log

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# 1. A Python.
python=${PYTHON:-}
if [ -n "$python" ]; then
  version=$(version_of "$python") ||
    fail "PYTHON=$python does not run; give a Python of 3.11 or newer"
  new_enough "$python" ||
    fail "$python is Python $version, collab_jax needs 3.11 or newer:" \
      "make PYTHON=python3.12"
else
  for python in python3 python3.12 python3.13 python3.11 python3.14 ''; do
    [ -z "$python" ] || ! new_enough "$python" || break
  done
  [ -n "$python" ] ||
    fail 'no Python of 3.11 or newer on the PATH; install one,' \
      'or name it: make PYTHON=/path/to/python3.12'
  version=$(version_of "$python")
fi
case $version in
  3.11) constraints=${CONSTRAINTS:-constraints/py311.txt} ;;
  *) constraints=${CONSTRAINTS:-constraints/py312.txt} ;;
esac
[ -f "$constraints" ] || fail "CONSTRAINTS=$constraints: there is no such file"

# 2. Is everything there already? Any extra includes the package itself.
want="$version $PWD $(cat setup.py "$constraints" | cksum)"
for stamp in "$venv/.installed${extra:+-}$extra"*; do
  if [ -x "$venv/bin/python" ] && [ "$want" = "$(cat "$stamp" 2>&1)" ]; then
    exit 0
  fi
done

# 3. An environment of this Python.
if [ -e "$venv" ] && [ "$(version_of "$venv/bin/python")" != "$version" ]; then
  [ -f "$venv/pyvenv.cfg" ] ||
    fail "$venv is in the way: not a virtual environment; move it, or set VENV"
  echo "$venv is not of Python $version: making it anew"
  rm -rf "$venv"
fi
if [ ! -e "$venv" ]; then
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv or ensurepip; on Debian and Ubuntu:" \
      "apt-get install python$version-venv"
  "$python" -m venv "$venv" >/dev/null ||
    fail "$python -m venv $venv failed"
fi

# 4. The packages. One small download first: pip retries for minutes.
pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@" \
    >>"$log" 2>&1 </dev/null
}
: >"$log"
echo "installing into $venv for Python $version (1-2 minutes, about 1 GB)"
pip --retries 1 --timeout 20 download --no-deps -d "$venv/probe" tqdm ||
  fail "the package registry is out of reach: check the network and" \
    "'pip config list'; pip's log is $log"
rm -rf "$venv/probe"
start=$(date +%s)
pip install --no-compile -c "$constraints" -e ".${extra:+[$extra]}" ||
  fail "pip could not install ($(grep -m 1 '^ *ERROR' "$log" || echo no reason \
given)); its log is $log"
printf '%s\n' "$want" >"$venv/.installed${extra:+-}$extra"
echo "installed in $(($(date +%s) - start)) s"
