#!/usr/bin/env bash
# Every figure of quality, on one GPU: the judges, the sweep, the paper's comparison, gate 0, a corpus, the hypernetwork's
# table; what can go side by side does. Use: runs/gpu.sh OUT. Ten minutes on an H100 with sixteen cores.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-runs/gpu}")
work=$out/work docs=$out/docs weights=palp/base/icons/weights
hyper=${PALP_HYPER:-.venv/bin/palp-hyper}
python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=2
mkdir -p "$work" "$docs"

said() { # run a command with its output in a file, and say how it went
    local name=$1 start=$SECONDS
    shift
    "$@" > "$out/$name.log" 2>&1
    echo "$name: rc $? in $((SECONDS - start)) s, at $SECONDS s"
}
sweep() { $hyper evaluate --sweep --methods palp,sds,nfsd --subjects ${TUNING:-4} --prompts ${TUNING:-4} --seeds 4 --work "$work/sweep" --out "$docs" $SIZES; }
compare() { $hyper evaluate --subjects ${SUBJECTS:-12} --prompts ${PROMPTS:-10} --seeds 4 --work "$work/compare" $SIZES --out "$@"; }
gate() { $hyper gate0 --subjects ${SUBJECTS:-12} --prompts ${GATE_PROMPTS:-24} --seeds 4 --work "$work/gate" --out "$docs" $SIZES; }
judge() {
    $hyper pretrain-base --only "$1" --out "$work/judges" --judge-chunks $chunks --judge-pictures ${SEEN:-1500000} --judge-batch 512 \
        --workers 11
}
hypernetwork() {
    sed 's/^slots: .*/slots: 128/' ${PLAN:-configs/corpus-icons.yaml} > "$work/plan.yaml"
    said corpus $hyper build-corpus "$work/plan.yaml" --out "$work/corpus"
    while [ ! -f "$work/judged" ]; do sleep 1; done
    said hypernet $hyper evaluate-hypernet hypernet/icons/hypernet.safetensors "$work/corpus" --prompts ${HELD:-112} --seeds ${SEEDS:-4} \
        --multi-steps ${MULTI:-300} --times docs/results/hypernet-icons.json --out "$docs" --work "$work/hypernet" $EVAL
}
SIZES=${SIZES:-} EVAL=${EVAL:-} chunks=${CHUNKS:-160}

unguided=base,subject,subject_early,subject_0.8,subject_0.6,unguided,residual_palp,residual_composed,residual_regional
unguided+=,residual_other,residual_mean,transferred,transferred_other,transferred_mean,score_composition,region_composition
shown=base,subject,subject_early,subject_0.8,subject_0.6,unguided,sds,nfsd,palp_fresh_noise,palp_no_rescale,palp,residual_regional
$python -c "
from pathlib import Path
from palp.base.icons.export import export_judge
from palp.base.icons.judges import NAMES, build_judges
for name, judge in zip(NAMES, build_judges()): export_judge(Path('$weights/judges'), name, judge)"
said sweep-drawn sweep &
swept=$!
said compare-drawn compare "$out/rivals" --methods $unguided &
compared=$!
said gate-drawn gate &
gated=$!
hypernetwork &
predicted=$!
said judge-attributes judge attributes &
first=$!
until [ "$(ls "$work"/judges/judge-pictures/judge-???.npz 2> /dev/null | wc -l)" -ge "$chunks" ]; do sleep 1; done # rendered by the first
said judge-clip judge clip
wait $first
touch "$work/judged"
wait $swept $compared
said base $hyper evaluate-base --out "$docs/results/base-icons.json" &
said sweep sweep
(wait $gated; said gate gate) &
chosen="--choices $docs/results/palp-icons-sweep.json"
said compare compare "$docs" --curve --methods $shown $chosen
said rivals compare "$out/rivals" $chosen
wait $predicted
wait
