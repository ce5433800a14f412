#!/usr/bin/env bash
#SBATCH --job-name=ulrl
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=ulrl-%j.log
# A Ray cluster for one study inside a Slurm job: sbatch docs/cluster/slurm.sh studies/cluster.yaml
# Run from the checkout, on a file system that all nodes see; .venv must be there.
# Before the time is up Slurm asks the study to stop; the job then puts itself in the queue
# again, and the same command goes on where it was.
set -euo pipefail

study=${1:?usage: sbatch docs/cluster/slurm.sh STUDY.yaml}
cd "$SLURM_SUBMIT_DIR"
source .venv/bin/activate
mkdir -p runs

# Every node presents the same secret; nobody else's job can use this cluster.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/runs/ray-$SLURM_JOB_ID.token
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH")
export RAY_USAGE_STATS_ENABLED=0

port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a node
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --block --node-ip-address="$address" --port="$port" \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID" --include-dashboard=false \
  --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE" &
until srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray health-check --address "$address:$port"; do sleep 2; done
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
    --exclude="$head" --overlap \
    ray start --block --address="$address:$port" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_ON_NODE" &
fi

# The batch step runs on the first node, so the driver does too.
python -m orchestrator.study "$study" --address "$address:$port" &
driver=$!
trap 'kill -TERM $driver' TERM
code=0
wait $driver || code=$?
while kill -0 $driver 2>/dev/null; do wait $driver || code=$?; done # a signal ends wait early
((code == 143)) && scontrol requeue "$SLURM_JOB_ID"
exit $code
