#!/bin/sh
# sh infra/schedulers/nightly.sh night-20261129
# Submits jobs/nightly.yaml under that id and follows it, in three tries unless another would say the same. Its log goes into
# a file. Where no try has succeeded, the result and the log's end go to stdout. Exit code: the last one of m2f-batch.
# To end a night for good, kill this script, which leaves its job, and then stop the job (`m2f-batch submit follow ID` and
# Ctrl-C). In that order: a job that is stopped while this waits for it goes on with the next try, as ID-2.
set -u
id=${1:?is the id of the night, such as night-20261129}
if ! command -v m2f-batch > /dev/null; then
    echo "nightly.sh: there is no m2f-batch in PATH=$PATH; cron's is short: put the folder of m2f-batch before it"
    exit 127
fi
folder=${XDG_STATE_HOME:-$HOME/.local/state}/m2f-batch
mkdir -p "$folder" || exit 1
result=$folder/$id.json log=$folder/$id.log
for wait in 600 600 0; do
    m2f-batch submit segment --config jobs/nightly.yaml --submission-id "$id" --result "$result" >> "$log" 2>&1
    code=$?
    case $code in
    0) exit 0 ;;
    2 | 3 | 126 | 127) break ;;  # refused, too many broken images, or no command that can be run
    esac
    sleep "${WAIT_SECONDS:-$wait}"
done
if [ -s "$result" ]; then cat "$result"; fi
tail -n 20 "$log"
exit $code
