#!/usr/bin/env bash
# Recomputes the published rows of one data set: bash leaderboards/reproduce.sh phantom
# milk10k and mri-ct must be imported first (robmed data import). Samples: 500, or all 211 of mri-ct.
# Takes hours for all on two cores; every run resumes where it was stopped.
set -euo pipefail
dataset="$1"
out="${2:-runs/published}"
samples=500
if [ "$dataset" = mri-ct ]; then samples=0; fi
for model in concat mail robust-mail robust-mail-rpf; do
    for protocol in released eot; do
        robmed run "$protocol" --model "$model" --dataset "$dataset" --samples "$samples" \
            --batch-size 250 --out "$out/$dataset"
    done
done
