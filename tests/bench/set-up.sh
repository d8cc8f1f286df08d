#!/usr/bin/env bash
# Makes .bench/venv, the Python that the step times are compared with: requirements.txt, nothing else.
#
# Packages are downloaded one after another into .bench/wheels, so that an interrupted set-up goes on where it was. The
# environment is built beside its final place and renamed at the end: it is there whole or not at all. A second run finds
# it and does nothing; changed requirements make it anew. About 2.3 GB are downloaded, and 6 GB of disk are used.
set -euo pipefail

PYTHON=${FLEET_BENCH_PYTHON:-python3}

cd "$(dirname "$0")/../.."
requirements=$PWD/tests/bench/requirements.txt
out=$PWD/.bench/venv
stage=$PWD/.bench/venv.partial
wheels=$PWD/.bench/wheels

say() { printf 'bench set-up: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

if cmp -s "$requirements" "$out/requirements.txt"; then exit 0; fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "the pinned packages are for Linux x86-64, this is $(uname -s) $(uname -m)"
command -v "$PYTHON" >/dev/null || die "no $PYTHON: install Python 3.11 or newer, or name one with FLEET_BENCH_PYTHON"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || die "$("$PYTHON" --version) is too old, 3.11 or newer is needed: name one with FLEET_BENCH_PYTHON"
mkdir -p "$wheels"
free_mib=$(df -Pm "$wheels" | awk 'NR==2 {print $4}')
[ "$free_mib" -ge 10000 ] || die "10000 MiB must be free in $PWD during the set-up; $free_mib MiB are"

# One set-up at a time: two would delete each other's work.
exec 9>"$PWD/.bench/set-up.lock"
flock -n 9 || die "another set-up is running in $PWD"

rm -rf "$stage"
trap 'rm -rf "$stage"' EXIT
trap 'say "interrupted; run it again to go on"; exit 130' INT TERM
"$PYTHON" -m venv "$stage" || die "$PYTHON -m venv failed (Debian and Ubuntu: apt-get install python3-venv)"
pip() { "$stage/bin/python" -m pip --disable-pip-version-check --no-cache-dir --quiet "$@"; }

mapfile -t packages < <(grep -v '^#' "$requirements")
for i in "${!packages[@]}"; do
  package=${packages[$i]}
  done=$wheels/$package.done
  [ -e "$done" ] && continue
  say "downloading $package ($((i + 1)) of ${#packages[@]}, $(du -sm "$wheels" | cut -f1) MiB so far)"
  pip download --no-deps --only-binary :all: --dest "$wheels" "$package" \
    || die "$package could not be downloaded (see above). Check the network and run this again: it goes on from here"
  touch "$done"
done
say "unpacking ${#packages[@]} packages, a minute or two"
pip install --no-deps --no-index --no-compile --find-links "$wheels" -r "$requirements" \
  || die "the downloaded packages could not be installed: remove $wheels and run this again"
# Start scripts name the folder that they were installed in, which is about to be renamed: `python -m` does not.
find "$stage/bin" -type f ! -name 'activate*' -delete
find "$stage/bin" -name 'activate*' -delete
"$stage/bin/python" -c 'import peft, timm, torch' || die "the environment does not import: remove $PWD/.bench and run this again"
cp "$requirements" "$stage/requirements.txt"
rm -rf "$out"
mv "$stage" "$out"
trap - EXIT
rm -rf "$wheels"
say "ready: .bench/venv with $("$out/bin/python" -c 'import torch; print("torch", torch.__version__)')"
