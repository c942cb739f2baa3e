#!/bin/sh
# `make demo`: make a crawl of photographs, then examples/quickstart.sh. CRAWL=folder takes your own photographs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
photos=${CRAWL:+$(cd "$CRAWL" && pwd)}
mkdir -p "$DEMO"
if [ ! -d "$DEMO/crawl" ]; then
    rm -rf "$DEMO/making" "$DEMO/heldout"
    python "$here/make_crawl.py" "$DEMO/making" ${photos:+--photos "$photos"}
    echo "$photos" > "$DEMO/crawl.from"
    mv "$DEMO/making/heldout" "$DEMO/"
    mv "$DEMO/making/crawl" "$DEMO/"
    rmdir "$DEMO/making"
elif [ "$(cat "$DEMO/crawl.from" 2> /dev/null)" != "$photos" ]; then
    made=$(cat "$DEMO/crawl.from" 2> /dev/null || true)
    echo "$DEMO was made from ${made:-the bundled photographs}, not from ${photos:-the bundled photographs}" >&2
    echo "hint: DEMO=FOLDER makes another one, \`make clean\` removes this one" >&2
    exit 1
fi
cd "$DEMO"
sh "$here/quickstart.sh"
python "$here/strip.py" judged/ strip.png
echo "the report: $DEMO/report.html, three of its edits: $DEMO/strip.png"
