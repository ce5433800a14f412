#!/usr/bin/env bash
#SBATCH --job-name=ulrl
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=ulrl-%j.log
#SBATCH --open-mode=append
# A Ray cluster for one study inside a Slurm job: sbatch docs/cluster/slurm.sh studies/cluster.yaml
# Run from the checkout, on a file system that all nodes see; .venv must be there.
# Before the time is up Slurm asks the study to stop; the job then puts itself in the queue
# again, and the same command goes on where it was.
set -euo pipefail

: "${1:?usage: sbatch docs/cluster/slurm.sh STUDY.yaml [OPTIONS of the study]}"
cd "$SLURM_SUBMIT_DIR"
source .venv/bin/activate
mkdir -p runs

# Every node presents the same secret; nobody else's job can use this cluster.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/runs/ray-$SLURM_JOB_ID.token
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")
export RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # the default would hold the nodes for 30 seconds

# This script runs on the first node, so the head and the driver do too. On Debian a host's own
# name has a loopback address, which the other nodes cannot reach.
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a node
for address in $(hostname --ip-address) $(hostname --all-ip-addresses); do
  [[ $address == 127.* || $address == *:* ]] || break
done
if [[ $address == 127.* || $address == *:* ]]; then
  echo "this node has only loopback and IPv6 addresses: $(hostname --all-ip-addresses)" >&2
  exit 1
fi
temporary=/tmp/ray-$SLURM_JOB_ID
resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}")

ray start --head --block --node-ip-address="$address" --port="$port" \
  --temp-dir="$temporary" --include-dashboard=false "${resources[@]}" &
ray=$!
until timeout 60 ray health-check --address "$address:$port" >/dev/null 2>&1; do
  kill -0 $ray # ends the job if Ray could not start
  sleep 2
done
others=$((SLURM_JOB_NUM_NODES - 1))
if ((others)); then
  # srun takes the job's CPUs per task only if it is told (since Slurm 22.05).
  srun --nodes=$others --ntasks=$others --exclude="$SLURMD_NODENAME" \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray start --block --address="$address:$port" "${resources[@]}" &
fi

# Slurm sends SIGUSR1 to this script alone, and the SIGTERM of scancel to all processes.
python -m orchestrator.study "$@" --address "$address:$port" &
driver=$!
trap 'kill -USR1 $driver || true' USR1
trap : TERM
code=0
wait $driver || code=$?
while kill -0 $driver 2>/dev/null; do # a signal ends wait early
  code=0
  wait $driver || code=$?
done

kill $(jobs -p) 2>/dev/null || true
wait
srun rm -rf "$temporary" || true
rm -f "$RAY_AUTH_TOKEN_PATH"
((code == 138)) && scontrol requeue "$SLURM_JOB_ID" # ended by SIGUSR1, not by scancel
exit $code
