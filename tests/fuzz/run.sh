#!/usr/bin/env bash
# Fuzzes each target for MINUTES (10), two at a time (JOBS), beginning with the kept inputs.
#   tests/fuzz/run.sh [TARGET...]
# What is found new stays in tests/fuzz/targets/target/, what breaks is printed and kept in tests/fuzz/targets/artifacts/.
set -euo pipefail
cd "$(dirname "$0")/targets"
minutes=${MINUTES:-10} jobs=${JOBS:-2}

lacks() { echo "fuzz: $1" >&2; exit 1; }
rustup toolchain list 2>/dev/null | grep -q ^nightly || lacks "needs a nightly compiler: rustup toolchain install nightly"
cargo +nightly fuzz --version >/dev/null 2>&1 || lacks "needs cargo-fuzz: cargo install cargo-fuzz"

cargo +nightly fuzz build --fuzz-dir . || lacks "the targets do not build"
programs=${CARGO_TARGET_DIR:-$PWD/target}/$(rustc +nightly -vV | sed -n 's/^host: //p')/release

work=$PWD/target/fuzz
# Folders for inputs that are read as files: in memory, if there is such a place.
[ -w /dev/shm ] && export TMPDIR=/dev/shm

fuzz() {
    local name=$1
    local options=(-max_total_time=$((minutes * 60)) -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=25 -print_final_stats=1)
    mkdir -p "$work/$name" "artifacts/$name"
    options+=(-artifact_prefix="artifacts/$name/")
    # Where bytes are choices, a long input means as much as a short one.
    case $name in archive | cifar | store | story) options+=(-len_control=0 -max_len=500) ;; esac
    [ -f "../dictionaries/$name.dict" ] && options+=(-dict="../dictionaries/$name.dict")
    echo "fuzz: $name for $minutes minutes"
    if nice -n 5 "$programs/$name" "${options[@]}" "$work/$name" "../corpus/$name" >"$work/$name.log" 2>&1; then
        grep -E "DONE|stat::number_of_executed_units" "$work/$name.log" | sed "s/^/$name: /"
    else
        # First: what follows may fail, and the end must not look well for it.
        touch "$work/broken"
        echo "fuzz: $name BROKE; its log is $work/$name.log, the input in $PWD/artifacts/$name" >&2
        grep -aE "panicked at|ERROR|SUMMARY" -A 3 "$work/$name.log" | head -20 >&2
    fi
}

rm -f "$work/broken"
names=("$@")
[ $# -gt 0 ] || for file in src/*.rs; do names+=("$(basename "$file" .rs)"); done
for name in "${names[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    fuzz "$name" &
done
wait
[ ! -e "$work/broken" ]
