#!/bin/sh
# `make demo`: make a crawl of photographs, then examples/quickstart.sh. CRAWL=folder takes your own photographs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$DEMO"
if [ ! -d "$DEMO/crawl" ]; then
    python "$here/make_crawl.py" "$DEMO/making" ${CRAWL:+--photos "$CRAWL"}
    mv "$DEMO/making/crawl" "$DEMO/making/heldout" "$DEMO/"
    rmdir "$DEMO/making"
fi
cd "$DEMO"
sh "$here/quickstart.sh"
echo "the report: $DEMO/report.html"
