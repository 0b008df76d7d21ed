#!/usr/bin/env bash
# Everything that waits for a GPU, in the order of its worth. Needs a CUDA build of PyTorch with Triton, and edgejpeg
# installed (pip install --no-build-isolation --no-deps -e . is enough beside an existing PyTorch).
#
#     benchmarks/gpu/run.sh [FOLDER FOR THE RESULTS]
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-benchmarks/results}
failed=0
python benchmarks/gpu/jpeg_layer.py --output "$out/gpu_jpeg_layer.json" || failed=1
exit $failed
