#!/usr/bin/env bash
# A verb of vlm-jax that trains, on plain hosts that ssh reaches without a password; one process a host, which takes all of
# its GPUs. The first host is the one that the others come to.
#
#   HOSTS="gpu1 gpu2" experiments/launch/ssh_hosts.sh sft --checkpoint /shared/llava --out /shared/runs/1 --mesh.fsdp 16 ...
#
# PORT is free on the first host (1234 without); FOLDER is where to run, the same on all hosts (this one without); VLM_JAX
# is the command there (vlm-jax without). Ends with the largest exit code of all. SIGTERM and Ctrl-C save the step that
# the run is in.
set -euo pipefail

: "${HOSTS:?names of hosts}"
read -r -a hosts <<<"$HOSTS"
port=${PORT:-1234} folder=${FOLDER:-$PWD} program=${VLM_JAX:-vlm-jax}
pid_file=/tmp/vlm-jax.$port.pid

# Told to one, which tells the others.
# shellcheck disable=SC2329 # It is what the trap calls.
stop() {
    ssh -n "${hosts[0]}" "kill -TERM \$(cat $pid_file)"
}
trap stop TERM INT

verb=$(printf '%q ' "$@")
running=()
for number in "${!hosts[@]}"; do
    meet="JAX_COORDINATOR_ADDRESS=${hosts[0]}:$port JAX_NUM_PROCESSES=${#hosts[@]} JAX_PROCESS_ID=$number"
    ssh -n "${hosts[number]}" "cd $(printf '%q' "$folder") && echo \$\$ >$pid_file && $meet exec $program $verb" &
    running+=($!)
done

worst=0
for one in "${running[@]}"; do
    code=0
    # A trapped signal ends the waiting, not what is waited for.
    while true; do
        wait "$one" && code=0 || code=$?
        kill -0 "$one" 2>/dev/null || break
    done
    worst=$((code > worst ? code : worst))
done
exit "$worst"
