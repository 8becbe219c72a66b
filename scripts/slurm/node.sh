#!/usr/bin/env bash
# One torchrun for the processes of this machine, and dat-train in each of them:
#
#   scripts/slurm/node.sh SETTING=VALUE ...
#
# train.sbatch starts it once a machine; it also serves where nothing but a shell is (NNODES and the RDZV_* variables on
# every machine, or none of them on a single one).
#
# SIGTERM, SIGUSR1 and SIGINT are passed on, and every process writes a checkpoint after its step. Exit codes, which
# torchrun itself does not tell apart: 0 finished, 75 stopped as asked (the same command continues), else failed.
set -uo pipefail

# torchrun kills processes that are not done writing after this many seconds
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
# a signal to everything in the job reaches torchrun too, which would die of SIGUSR1 and leave its processes behind
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

# in a session of its own: a signal to this process group must reach it once, through the trap
setsid "${PYTHON:-python3}" -m torch.distributed.run "${options[@]}" -m dat_train.commands.train "$@" &
torchrun=$!

wait "$torchrun"
code=$?
while kill -0 "$torchrun" 2>/dev/null; do # a signal ends the waiting, not torchrun
    wait "$torchrun"
    code=$?
done
if [[ -n $asked && $code != 0 ]]; then
    code=75
fi
exit "$code"
