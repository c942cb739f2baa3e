#!/bin/sh
# From a crawl of images to a trained editing model and its report.
# Run it in a folder that holds crawl/ and heldout/; run it again to continue where it stopped.
set -eu

GLOBAL=gray,invert,sepia,warm,cool,tint,brighten,darken,saturate,contrast,blur
LOCAL=flip,add,remove

# Every file of the crawl becomes a row, or a reject with its reason.
edit shard crawl/ -o raw/ --max-errors 5%

# One of each image, none too small, not the blurriest.
edit dedup raw/ | edit filter --min-side 64 --sharpness q02 -o clean/ --max-errors 5%

# Exact edits with instructions in English and Chinese, and three more styles of wording.
edit synth clean/ --crop 60 --templates $GLOBAL --per-row 4 | edit caption -o pairs-global/
edit synth clean/ --crop 60 --templates $LOCAL --per-row 4 | edit caption -o pairs-local/

# Is the edit visible, and where? Keep those where it is.
edit score pairs-global/ pairs-local/ | edit filter --where 'scores.visible = 1' -o train/

# A small editing model from scratch.
edit train train/ --recipe demo -o run/

# Photographs the model has never seen, six kinds of edit on each of them: these are the truth.
edit shard heldout/ | edit synth --crop 60 --templates $GLOBAL,$LOCAL --per-row 6 --seed 1 -o truth/

# Edit them, once as told and once with another row's instruction, and compare with the truth.
edit sample truth/ --model run/ | edit sample --model run/ --shuffle --column result_shuffled | edit score -o judged/

# The report.
edit eval report heldout judged/ --run run/ --data train/ -o report.html --overwrite
