#!/usr/bin/env bash
# A verb of vlm-jax that trains, on all hosts of one TPU slice, until it is done: the slice is asked for as a queued
# resource, and asked for again when it is taken away.
#
#   NAME=run1 ZONE=us-west4-a TYPE=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite SETUP=setup.sh \
#       tpu/launch/queued_resource.sh sft --checkpoint /mnt/shared/llava --out /mnt/shared/runs/1 --mesh.fsdp 16 ...
#
# NAME of slice and request; ZONE, TYPE, RUNTIME as `gcloud compute tpus queued-resources create` takes them; SETUP is run
# on every host of a new slice and has to leave `vlm-jax` in the path and the shared folder mounted. MORE holds further
# options of `create` (--spot without it).
set -euo pipefail

: "${NAME:?}" "${ZONE:?}" "${TYPE:?}" "${RUNTIME:?}" "${SETUP:?}"
read -r -a more <<<"${MORE---spot}"
where=(--zone "$ZONE" --quiet)

state() {
    gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)' 2>/dev/null || echo NONE
}

ask() {
    gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id "$NAME" \
        --accelerator-type "$TYPE" --runtime-version "$RUNTIME" "${more[@]}"
}

give_back() {
    gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force
}

# A slice that was taken away stays in this list until it is deleted; a new one is asked for under the same name.
wait_for_slice() {
    while true; do
        case "$(state)" in
            ACTIVE) return ;;
            NONE) ask ;;
            FAILED | SUSPENDED) give_back ;;
            *) sleep 60 ;;
        esac
    done
}

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command "$1"
}

# Whether the slice itself is still there.
is_ready() {
    [[ "$(gcloud compute tpus tpu-vm describe "$NAME" "${where[@]}" --format='value(state)' 2>/dev/null)" == READY ]]
}

command="vlm-jax $(printf '%q ' "$@" --hosts.detect --hosts.wait 600)"
while true; do
    wait_for_slice
    gcloud compute tpus tpu-vm scp "$SETUP" "$NAME:setup.sh" "${where[@]}" --worker=all
    if on_all_hosts "bash setup.sh && bash -lc $(printf '%q' "$command")"; then
        give_back
        exit 0
    else
        code=$?
    fi
    # A mistake would be made again; a slice that is gone ends the same command, which goes on from its last saved step.
    if is_ready; then
        echo "the command ended with $code on a slice that is still there" >&2
        exit "$code"
    fi
    give_back
done
