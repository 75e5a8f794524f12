#!/bin/sh
# The whole example on one machine: data, keys, a charter that all sign, then five processes.
#
#     sh examples/own_task/run.sh FOLDER [FIRST_PORT]
#
# Four ports from FIRST_PORT on (7100 by default) must be free. On real hosts each party does its own lines at home.
set -eu
command -v tertium >/dev/null || { echo "run.sh: no tertium here; activate the environment that has it" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
port=${2:-7100}
mkdir -p "$1"
cd "$1"
export PYTHONPATH="$here"

python "$here/make_data.py" data

tertium keygen owner --role model_owner --out owner \
    --control "tcp://127.0.0.1:$port" --bulk "tcp://127.0.0.1:$((port + 1))"
tertium keygen third --role secure_worker --out third \
    --control "tcp://127.0.0.1:$((port + 2))" --bulk "tcp://127.0.0.1:$((port + 3))"
for name in alice bob carol; do
    tertium keygen "$name" --role data_owner --out "$name"
done
for name in owner alice bob carol; do
    cp "$here/sites/$name.toml" "$name/site.toml"
done

# The range holds the batches a round counts (see wards.py); the cohort is all three hospitals.
tertium charter new --federation wards --minimum-cohort 3 --value-range 16 --task wards --out charter.toml \
    --party owner/public.toml --party third/public.toml \
    --party alice/public.toml --party bob/public.toml --party carol/public.toml
for name in owner third alice bob carol; do
    tertium charter sign charter.toml --as "$name"
done
tertium charter verify charter.toml

others=
trap 'kill $others 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
tertium secure-worker run --party third --charter charter.toml --once > third.log 2>&1 &
others="$others $!"
for name in alice bob carol; do
    tertium worker run --party "$name" --charter charter.toml > "$name.log" 2>&1 &
    others="$others $!"
done
tertium owner run --party owner --charter charter.toml --out results
wait
