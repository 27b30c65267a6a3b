#!/bin/sh
# sh infra/schedulers/nightly.sh night-20261129
# Submits jobs/nightly.yaml under that id and follows it; three tries, unless another would say the same. Its log goes into
# a file, and where no try has succeeded, the result and the log's end to stdout. Exit code: the last one of m2f-batch.
set -u
folder=${XDG_STATE_HOME:-$HOME/.local/state}/m2f-batch
mkdir -p "$folder"
result=$folder/$1.json log=$folder/$1.log
for wait in 600 600 0; do
    m2f-batch submit segment --config jobs/nightly.yaml --submission-id "$1" --result "$result" >> "$log" 2>&1
    code=$?
    case $code in
    0) exit 0 ;;
    2 | 3) break ;;
    esac
    sleep "${WAIT_SECONDS:-$wait}"
done
cat "$result"
tail -n 20 "$log"
exit $code
