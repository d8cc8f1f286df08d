#!/usr/bin/env bash
# What only a GPU can show, in about seven minutes on an H200: GPU.md holds one run's output in short.
# `make bench-gpu [PYTHON=python3]`, where PYTHON has torch for the GPU, timm and peft.
set -euo pipefail
cd "$(dirname "$0")/../.."
agent=target/release/fleet-agent fleet=target/release/fleet python=${PYTHON:-python3}
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
export FLEET_METER_CACHE=$folder/meters

campaign() { # campaign NAME BUDGET CHECKPOINTING STEPS [MORE] : ViT-Small, batch 64, all weights, on textures
  printf 'name = "%s"\nseeds = [0]\nbudget = "%s"\n%s\n[matrix]\nmethod = "full"\nbackbone = "vit_small_patch16_224"
checkpointing = [%s]\ndataset = "textures"\n[train]\nsteps = %s\nbatch = 64\nwarm_up_steps = 10\n[evaluate]\nlimit = 64\n' \
    "$1" "$2" "${5:-}" "$3" "$4" > "$folder/$1.toml"
  $fleet local "$folder/$1.toml" --data "$folder/data" --state "$folder/$1" --devices cuda:0 --characterise never
}

echo "== every reference, with a fixed order of additions"
$agent verify --device cuda:0 --brief tests/fixtures/* || true
echo "== the board's sensor"
$agent calibrate --device cuda:0 --seconds 30
echo "== the selective scan"
cargo bench --locked --quiet -p fleet-worker --bench scan -- cuda
echo "== steps beside Python's"
target/release/bench --device cuda --python "$python" \
  --rows vit_small:64:full:none,vit_small:64:full:static,vit_small:64:lora:none,tiny_vit_5m:64:full:none,mamba_vision:64:full:none
$fleet data synth --data "$folder/data" --name textures
echo "== a budget of half of what a step needs"
campaign free unlimited '"none"' 260
campaign half 2GiB '"none", "static", "adaptive", "planned"' 260
campaign process 2GiB '"static", "planned"' 40 'budget_scope = "process"'
campaign too-little 600MiB '"none", "planned"' 20
echo "== two minutes, metered: the energy counter beside integrated power is in the report's flags and in the records"
campaign long 16GiB '"none"' 2500
