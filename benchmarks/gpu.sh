#!/usr/bin/env bash
# Everything of docs/results that needs a GPU, in one go, the most wanted first.
#
#   benchmarks/gpu.sh OUT [SECONDS]        e.g. benchmarks/gpu.sh data/08_reporting/gpu 560
#
# 1. the tests marked gpu   2. training throughput   3. the latency table
# 4. the ways of input      5. stored logits against an online teacher
#
# Each part gets its share of SECONDS (540), stops by itself within it, and leaves a log in OUT beside
# its JSON; a part that fails costs the others nothing. PYTHON names another interpreter than python3.
set -uo pipefail

usage() { sed -n '2,10p' "$0" | sed 's/^# \{0,1\}//'; }
case ${1:-} in "" | -h | --help) usage; exit 0 ;; esac

out=$1 total=${2:-540} python=${PYTHON:-python3}
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD/src:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out" || exit
failed=()

# part NAME SHARE COMMAND...: SHARE is in hundredths of the time.
part() {
    local name=$1 seconds=$((total * $2 / 100)) began=$SECONDS
    shift 2
    echo "== $name, at most $seconds s: $*"
    timeout $((seconds + 10)) "${@//SECONDS/$seconds}" 2>&1 | tee "$out/$name.log" | tail -n 45
    local code=${PIPESTATUS[0]}
    [ "$code" = 0 ] || failed+=("$name ($code)")
    echo "== $name: exit $code after $((SECONDS - began)) s"
}

part tests 12 "$python" -m pytest -q -o addopts= -m gpu -p no:cacheprovider \
    tests/models/test_fast_layers.py tests/input/test_device_views.py tests/training tests/deployment
part training 38 "$python" benchmarks/bench_gpu_training.py --out "$out" --budget SECONDS --seconds 4
part latency 30 "$python" benchmarks/bench_gpu_latency.py --out "$out" --budget SECONDS
part input 10 "$python" benchmarks/bench_device.py --images 192 --batch 256 --workers 8 14 \
    --seconds 2 --limit SECONDS --json "$out/bench_device.json"
part stored 10 "$python" benchmarks/bench_stored_logits.py --device cuda --batch 256 --seconds 15

echo "failed: ${failed[*]:-none}"
[ ${#failed[@]} = 0 ]
