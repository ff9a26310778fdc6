#!/usr/bin/env bash
# Puts a table into the durability report, in the place of the one of that name.
#   tests/proof/table.sh NAME <TABLE.md
#   tests/proof/table.sh --join FILE...    one table of several that have the same columns, to standard output
#   tests/proof/table.sh --sum FILE...     the same, with the last column summed up by the first
# A table's place is between `<!-- table: NAME -->` and `<!-- end -->`; a place that is missing is an error.
set -euo pipefail
report=$(dirname "${BASH_SOURCE[0]}")/../../docs/durability-report.md

case ${1:-} in
--join)
    shift
    head -n 2 "$1"
    for file in "$@"; do tail -n +3 "$file"; done
    ;;
--sum)
    shift
    head -n 2 "$1"
    for file in "$@"; do tail -n +3 "$file"; done |
        awk -F ' [|] ' '{ sub(/^[|] /, "", $1); sub(/ [|]$/, "", $2); sum[$1] += $2 }
            END { for (name in sum) printf "| %s | %d |\n", name, sum[name] }' | LC_ALL=C sort
    ;;
'' | -*)
    sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
*)
    grep -qxF "<!-- table: $1 -->" "$report" || {
        echo "$report has no place for a table '$1'" >&2
        exit 1
    }
    table=$(cat)
    [[ -n $table ]] || {
        echo "the table '$1' is empty" >&2
        exit 1
    }
    written=$(TABLE=$table awk -v name="$1" '
        $0 == "<!-- table: " name " -->" { print; print ""; print ENVIRON["TABLE"]; print ""; skips = 1; next }
        $0 == "<!-- end -->" { skips = 0 }
        !skips' "$report")
    printf '%s\n' "$written" >"$report"
    ;;
esac
