#!/usr/bin/env bash
# From the embedded base to the shipped hypernetwork, in order: corpus, training, evaluation, export; each with its time.
# Use: runs/icons.sh [tiny]     Killed at any moment, the same command goes on. Results are in runs/icons (runs/icons-tiny).
# Time on two CPU cores: two to three hours; tiny, which learns next to nothing and shows that all works: a minute, on slow cores four.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

size=${1:-full}
case $size in
full)
    plan=configs/corpus-icons.yaml out=runs/icons
    train=(--steps 1100 --samples-every 0 --set warm=150 --set tune=500 --set patience=0 --set validate_every=220)
    evaluate=(--prompts 48 --subjects 3 --seeds 2 --multi-steps 300)
    ;;
tiny)
    plan=configs/corpus-icons-tiny.yaml out=runs/icons-tiny
    train=(--steps 6 --samples-every 0 --set warm=2 --set tune=2 --set warmup=1 --set prompts=2 --set validate_every=3 --set validation_prompts=2
        --set width=32 --set basis=4)
    evaluate=(--prompts 2 --subjects 1 --seeds 2 --steps 2 --refine 2 --multi-steps 4)
    ;;
*)
    echo "runs/icons.sh: got '$size', expected nothing or 'tiny'" >&2
    exit 2
    ;;
esac

timed() { # a killed step's time counts as well: until the last file that it wrote
    local name=$1 start=$SECONDS mark=$out/.$1-began last
    shift
    if [ -f "$mark" ]; then
        last=$(find "$out" -printf '%T@\n' | sort -n | tail -n 1)
        echo "$name: $((${last%.*} - $(stat -c %Y "$mark"))) s" >> "$out/times.txt"
    fi
    touch "$mark"
    "$@"
    echo "$name: $((SECONDS - start)) s" | tee -a "$out/times.txt"
    rm "$mark"
}

mkdir -p "$out"
hyper=${PALP_HYPER:-.venv/bin/palp-hyper}
timed corpus "$hyper" build-corpus "$plan" --out "$out/corpus"
timed verify "$hyper" corpus verify "$out/corpus"
timed train "$hyper" train "$out/corpus" --out "$out/hypernet" "${train[@]}"
spent=$(awk '/^(corpus|train):/ { sum += $2 } END { print sum }' "$out/times.txt")
timed evaluate "$hyper" evaluate-hypernet "$out/hypernet" "$out/corpus" --out "$out/docs" --work "$out/evaluation" \
    --spent "$spent" "${evaluate[@]}"
timed export "$hyper" export "$out/hypernet" --out "$out/hypernet.onnx"
