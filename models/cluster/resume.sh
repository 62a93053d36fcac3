# Sourced by the job scripts: run a command, and have the job queued again where it was interrupted.

# 42: a signal stopped the run after its checkpoint (preemption, time limit). 2: bad input, trying again is no use.
# Anything else: a rank died; the run goes on from its last periodic checkpoint, at most RETRIES times.
run_and_resume() {
  # Slurm signals the batch shell too; without a trap it would die before it could ask to be queued again
  trap : TERM USR1
  "$@" &
  local pid=$! code
  wait "$pid"
  code=$?
  while kill -0 "$pid" 2>/dev/null; do
    wait "$pid"
    code=$?
  done
  echo "job $SLURM_JOB_ID, start ${SLURM_RESTART_COUNT:-0}: exit code $code"
  if [ "$code" -eq 0 ] || [ "$code" -eq 2 ]; then
    exit "$code"
  fi
  if [ "$code" -eq 42 ] || [ "${SLURM_RESTART_COUNT:-0}" -lt "${RETRIES:-3}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 30 # the requeue ends this script; exiting first would mark the job failed
  fi
  exit "$code"
}
