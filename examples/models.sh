#!/bin/sh
# `make demo-models`: photographs -> what is in them -> pairs, checked -> reports. Offline: the networks come out of wheels
# (faces, people, text), and the painters are model-free. The same commands run published models:
#     DETECTOR="groundingdino --names person" SEGMENTER=sam2 PAINTER=pipeline DEVICE=cuda make demo-models
# PHOTOS=folder takes your own photographs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
placed=${DEVICE:+--device $DEVICE}
mkdir -p "$DEMO"
cd "$DEMO"
[ -d photos ] || python "$here/make_photos.py" photos
edit weights -q mediapipe
edit shard "${PHOTOS:-photos}" -o raw/ -q

# shellcheck disable=SC2086  # options, and not one word
edit ground raw/ --detector ${DETECTOR:-person} $placed | edit ground --segmenter "${SEGMENTER:-grabcut}" $placed -o people/
edit ground raw/ --detector text -o writing/

# What changes is exact in all of them: beyond the mask every pixel is the photograph's. What a painter refuses, and what
# a check fails, is counted in the rejects.
edit synth people/ --painter "${PAINTER:-backdrop}" $placed --painted background,extract --per-row 2 \
    --check outside,edit_ratio \
    --scenes "${SCENES:-a plain gray wall,a plain blue wall,a plain green wall,a plain beige wall}" -o scenes/
edit synth people/ --painter inpaint --painted expression --per-row 3 --inverse --check outside -o faces/
edit synth writing/ --painter inpaint --painted text --per-row 2 --inverse --check outside,text -o texts/
# The offline painter refuses all that does not lie alone on plain or even ground: of these photographs, everything.
edit synth writing/ --painter "${PAINTER:-clone}" $placed --painted remove --per-row 4 --inverse \
    --check outside,edit_ratio:0.002 -o removed/ || removed=none

edit ground people/ --report people.html -q --overwrite
[ "${removed:-}" ] && sets="scenes/ faces/ texts/" || sets="scenes/ faces/ texts/ removed/"
# shellcheck disable=SC2086
edit cat $sets -o all/ -q
edit eval dataset all/ -o dataset.html
python "$here/pairs.py" pairs.png all/
echo "the report: $DEMO/dataset.html; people: $DEMO/people.html; random pairs: $DEMO/pairs.png"
