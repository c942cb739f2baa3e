#!/bin/sh
# From the quickstart's model to a better one, by what its own images are worth: preference pairs, then reinforcement.
# Run it after quickstart.sh in the same folder (train/, truth/, run/); run it again to continue where it stopped.
set -eu

# Eight images of each of 400 rows, and how near the truth each of them is. Any score will do, a judge's too.
edit sample train/ --limit 400 --model run/ --candidates 8 | edit score -o candidates/

# The best and the worst image of each row, where they differ.
edit pair candidates/ --by psnr --margin 0.3 --near-equal 50 -o preferences/ --max-errors 100%

# The better ones become likelier and the worse ones less so. The model has converged: a fifth of the recipe's rate.
edit train preferences/ --recipe demo-dpo --set model.weights=run/ --set lr=2e-5 -o run-dpo/

# Or learn from rewards: images are made, scored and learned from, iteration by iteration.
edit train train/ --recipe demo-nft --set model.weights=run/ --set lr=2e-5 --set objective_settings.group=16 \
    --heldout truth/ -o run-nft/

# What an iteration made, and what it was worth.
edit cat run-nft/rollouts/00000.parquet -o rollouts/

# The same edits of photographs that no model has seen, by all three.
for model in run run-dpo run-nft; do
    edit sample truth/ --model $model/ | edit score -o judged-$model/
    edit eval report heldout judged-$model/ --run $model/ --data train/ -o report-$model.html --overwrite
done
