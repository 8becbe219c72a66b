#!/usr/bin/env bash
# Start torchrun on this machine, with dat-train in each of its processes:
#
#   scripts/slurm/node.sh SETTING=VALUE ...
#
# train.sbatch starts it once per machine. It can also be started from a shell, without SLURM: set NNODES and the RDZV_*
# variables on every machine, or none of them for a single machine.
#
# SIGTERM, SIGUSR1 and SIGINT are passed on, and every process writes a checkpoint after its step. Exit codes, which
# torchrun does not distinguish: 0 finished; 75 stopped on request (the same command continues); others: failed.
set -uo pipefail

# seconds after which torchrun kills processes that have not ended
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
# A signal to all processes of the job also reaches torchrun. By default SIGUSR1 ends torchrun, but not its processes.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1

options=(--nproc-per-node="${NPROC:-gpu}" --max-restarts="${MAX_RESTARTS:-3}")
if [[ ${NNODES:-1} != 1 ]]; then
    options+=(--nnodes="$NNODES" --rdzv-backend=c10d --rdzv-id="$RDZV_ID" --rdzv-endpoint="$RDZV_ENDPOINT")
fi
if [[ -n ${RDZV_CONF:-} ]]; then
    options+=(--rdzv-conf="$RDZV_CONF")
fi

asked=
trap 'asked=yes; kill -TERM "$torchrun" 2>/dev/null' TERM USR1 INT

# in a separate session, so that it receives a signal to this process group only once, through the trap
setsid "${PYTHON:-python3}" -m torch.distributed.run "${options[@]}" -m dat_train.commands.train "$@" &
torchrun=$!

wait "$torchrun"
code=$?
while kill -0 "$torchrun" 2>/dev/null; do # a signal interrupts `wait`, not torchrun
    wait "$torchrun"
    code=$?
done
if [[ -n $asked && $code != 0 ]]; then
    code=75
fi
exit "$code"
