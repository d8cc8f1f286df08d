#!/usr/bin/env bash
# Makes random reference folders and runs them through fleet-agent verify:
#
#   tests/references/run.sh [SEED [COUNT]]     COUNT of each kind, 5 by default; the seed of a day is its date
#
# Exit code 1 if a result is beyond its tolerance; the folders then stay in .bench/references/SEED.
set -euo pipefail
cd "$(dirname "$0")/../.."
today=$(date -u +%Y%m%d)
seed=${1:-$today}
count=${2:-5}
out=.bench/references/$seed
agent=target/release/fleet-agent
# CLIP's merges come with open_clip, and in no model's folder.
export FLEET_CLIP_MERGES
[ -x $agent ] || { echo "references: $agent is not there: run make build first" >&2; exit 1; }
tests/bench/set-up.sh
FLEET_CLIP_MERGES=$(echo .bench/venv/lib/python3*/site-packages/open_clip/bpe_simple_vocab_16e6.txt.gz)
rm -rf "$out"
mkdir -p "$out"

echo "references: seed $seed, $count of each kind, in $out"
# Nothing is downloaded; libraries' remarks about optional accelerators go to a file.
HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 \
  .bench/venv/bin/python tests/references/make.py --out "$out" --seed "$seed" --random "$count" 2> "$out/make.log" \
  || { tail -5 "$out/make.log" >&2; echo "references: make.py failed, see $out/make.log" >&2; exit 1; }

code=0
$agent verify --brief "$out"/*/ > "$out/verify.txt" || code=$?
grep -v -e '^passed' -e '^$' "$out/verify.txt" || true
folders=$(find "$out" -maxdepth 2 -name config.json | wc -l)
echo "references: seed $seed: $(grep -c '^passed' "$out/verify.txt" || true) of $folders folders within their tolerances"
mkdir "$out/adapters"
HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 \
  .bench/venv/bin/python tests/references/adapters.py target/release "$out/adapters" 2> "$out/adapters.log" \
  || { tail -5 "$out/adapters.log" >&2; code=1; }
if [ $code -ne 0 ]; then
  echo "references: what failed is in $out; make it again with: make references SEED=$seed COUNT=$count" >&2
  exit 1
fi
rm -rf "$out"
