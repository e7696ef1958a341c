#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR MIT
# A night on a Slurm cluster whose nodes share a file system:
#
#     sbatch --array=1-3 --export=ALL,NIGHT="$(date -u +%F)" ci/slurm-nightly.sh
#
# and, once all of its tasks have ended (sbatch --dependency=afterany:JOB):
#
#     crucible results merge "$CRUCIBLE_RESULTS"/nights/"$NIGHT"/shard-*.sqlite
#
# CRUCIBLE names the program, CRUCIBLE_RESULTS a directory that all nodes see, and BUDGET the time.
# A task that is preempted or whose node fails is started again, and runs the units that the file of its
# shard lacks; so is one whose host fails (exit code 129), but not one that has found something (1).
# SBATCH --job-name=crucible-nightly SBATCH --requeue SBATCH --open-mode=append
set -uo pipefail

"${CRUCIBLE:-crucible}" nightly --shard auto --night "$NIGHT" ${BUDGET:+--budget "$BUDGET"} \
	${BASIS:+--basis "$BASIS"} "$@"
code=$?
if [ "$code" = 129 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 2 ]; then
	scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
