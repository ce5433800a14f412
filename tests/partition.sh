#!/usr/bin/env bash
# Cut a node off a Ray cluster while a study runs on it, and heal the cut after some seconds:
#   sudo tests/partition.sh [SECONDS]
# By hand, as root, from the checkout: head and driver are in one network namespace, the other node
# is in a second one. Prints the study's output by seconds, then whether the table is that of
# --inline. In the end a driver with another token has to be refused in one line.
set -euo pipefail

cut=${1:-50}
python=${PYTHON:-.venv/bin/python}
place=$(mktemp -d /tmp/cut-XXXXXX)
a=ulrl-a b=ulrl-b port=6400
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0 RAY_raylet_start_wait_time_s=300
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')

tidy() {
  for name in $a $b; do
    ip netns pids $name | xargs -r kill -9
    ip netns delete $name
  done
  rm -rf "$place"
}
trap tidy EXIT

ip netns add $a
ip netns add $b
ip link add to-b netns $a type veth peer name to-a netns $b
ip -n $a addr add 10.77.0.1/24 dev to-b
ip -n $b addr add 10.77.0.2/24 dev to-a
for link in "$a to-b" "$b to-a" "$a lo" "$b lo"; do
  read -r name device <<<"$link"
  ip -n "$name" link set "$device" up
done

node() {
  ip netns exec "$1" "$python" -m ray.scripts.scripts start --num-cpus=1 "${@:2}" \
    --object-store-memory=100000000 --min-worker-port=0 --max-worker-port=0 >"$place/$1.log" 2>&1
}
node $a --head --port=$port --node-ip-address=10.77.0.1 --include-dashboard=false \
  --temp-dir="$place/ray"
node $b --address=10.77.0.1:$port --node-ip-address=10.77.0.2

cat >"$place/grid.yaml" <<'STUDY'
name: cut
grid:
  attack: [badnets, {name: blended, alpha: 0.3}, {name: sig, poison_ratio: 0.05}]
  dataset: digits
  architecture: {name: preact_resnet18, width: 6}
  seed: [0, 1]
  clean_ratio: 0.05
  unlearn_threshold: [0.3, 0.6]
  reinit_ratio: [1.0, 0.0]
  relearn_epochs: 6
  unlearn_epochs: 8
victim: {epochs: 4, batch_size: 64, min_acc: 0.2, min_asr: 0}
prune: none
mlflow: {log_models: none}
STUDY
study() {
  "$python" -m orchestrator.study "$place/grid.yaml" --out "$place/$1" \
    --set store="$place/store-$1" --set mlflow.uri="sqlite:///$place/mlflow.db" "${@:2}"
}
export -f study
export python place port

SECONDS=0
while [ ! -s "$place/cluster/stages.csv" ] || [ "$(wc -l <"$place/cluster/stages.csv")" -lt 3 ]; do
  sleep 0.2
done && echo "$SECONDS cut" && ip -n $b link set to-a down && sleep "$cut" &&
  ip -n $b link set to-a up && echo "$SECONDS healed" &
ip netns exec $a bash -c 'study cluster --address 10.77.0.1:$port' 2>&1 |
  while IFS= read -r line; do echo "$SECONDS $line"; done
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN//[0-9]/a} \
  ip netns exec $a bash -c 'study refused --address 10.77.0.1:$port' || echo "exit code $?"
study inline --inline >"$place/inline.log"
"$python" - "$place" <<'PY'
import sys, pandas
one, other = (
    pandas.read_csv(f"{sys.argv[1]}/{name}/results.csv").drop(columns=["seconds", "mlflow_run_id"])
    for name in ("cluster", "inline")
)
print("the same table" if one.equals(other) else "another table")
PY
