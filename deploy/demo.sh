#!/usr/bin/env bash
# A small real campaign from nothing: two disjoint sets of procedural textures, a ViT that learns the first from scratch,
# and three ways to adapt it to the second, with and without checkpointing. Coordinator and agent talk gRPC on loopback.
# Everything it makes is in .demo/; what is there already is used again.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=.demo
fleet=target/release/fleet

$fleet data synth --data $demo/data --name textures-a --set A
$fleet data synth --data $demo/data --name textures-b --set B

if [ ! -f $demo/weights/vit_micro.safetensors ]; then
  echo; echo "1. vit_micro learns the first set from scratch."
  $fleet local deploy/campaigns/demo-pretrain.toml --data $demo/data --state $demo/pretrain --keep-weights $demo/weights
fi

echo; echo "2. Its weights are adapted to the second set: 3 methods, 2 checkpointing strategies, 2 seeds."
exec $fleet local deploy/campaigns/demo.toml --data $demo/data --weights $demo/weights --state $demo/state --report $demo/report.html
