"""Wordings that only make sense inside a dialogue: they refer to what an earlier turn did.

REFERRING[wording][template][language] are patterns; `<core>` is the edit said plainly, and names
like <color> are the slots of the turn. A dialogue's turn carries its wording in slots["wording"].
"""

_AFTER_GOING_BACK = {
    "back_to_first": {
        "en": [
            "{go back|return} to {the result of the first edit|the version after the first edit} and <core>",
            "{drop|discard} {the second edit|my second change}, keep the first, and <core>",
        ],
        "zh": [
            "{回到|退回到}第一次{编辑|修改}后的{版本|结果}，{然后|再}<core>",
            "{撤销|取消}第二次修改，保留第一次的，{然后|再}<core>",
        ],
    },
    "undo": {
        "en": [
            "{undo|revert|take back} {the last change|the last edit|what you just did} and <core> instead",
            "{undo|revert} {the previous step|the last step}, then <core>",
        ],
        "zh": [
            "{撤销|取消}{上一步|刚才的修改|上一次编辑}，{改为|然后}<core>",
            "{不要|放弃}{刚才那一步|刚才的修改}，{退回去后|回到前一版后}<core>",
        ],
    },
    "back_to_original": {
        "en": [
            "{go back|return} to the {original|original picture|original image} and <core>",
            (
                "{discard|drop} {all edits so far|everything so far}, start {again|over} from the original "
                "picture and <core>"
            ),
        ],
        "zh": [
            "{回到|退回到}{原图|最初的图片}，{然后|再}<core>",
            "{放弃|撤销}之前的{所有|全部}修改，从原图{重新开始|开始}，<core>",
        ],
    },
}

REFERRING: dict[str, dict[str, dict[str, list[str]]]] = {
    # content memory: an attribute of the first turn has to be remembered
    "rule": {
        "add": {
            "en": [
                (
                    "{remember|keep in mind}: {every|each} shape I {ask for|have you add} {shall be|is to "
                    "be} <color>; {first|now}, {add|draw|put} a <size> <shape> <place>"
                ),
                (
                    "{from now on|in this conversation}, {use|take} <color> for {every|each} shape; "
                    "{start with|begin with} a <size> <shape> <place>"
                ),
            ],
            "zh": [
                (
                    "{记住|请记住}：我{要|让你加}的每个图形都{用|是}<color>；{先|现在}在<place>{添加|"
                    "画}一个<size><shape>"
                ),
                "{从现在起|接下来}，所有图形都用<color>；{先|首先}在<place>{添加|画}一个<size><shape>",
            ],
        }
    },
    "by_the_rule": {
        "add": {
            "en": [
                (
                    "{now|next}, {add|draw|put} a <size> <shape> <place>[, in the color we agreed on|, same "
                    "rule as before]"
                ),
                "{add|draw|put} {another shape|one more shape}, a <size> <shape>, <place>",
            ],
            "zh": [
                "{现在|接着|再}在<place>{添加|画|放}一个<size><shape>[，颜色按约定|，规则同前]",
                "{再|又}{加|画}一个图形：在<place>{放|画}一个<size><shape>",
            ],
        }
    },
    "same_color": {
        "add": {
            "en": [
                (
                    "{add|draw|put} a <size> <shape> <place>, in the same color as the {first shape|shape "
                    "you added first}"
                ),
                ("{add|draw|put} a <size> <shape> <place> {using|with} the color {of the first edit|you used first}"),
            ],
            "zh": [
                "在<place>{添加|画|放}一个<size><shape>，颜色{和|与}{第一个图形|最先添加的图形}{相同|一样}",
                "用{第一次|最开始}用过的颜色，在<place>{添加|画}一个<size><shape>",
            ],
        }
    },
    "same_shape": {
        "add": {
            "en": [
                (
                    "{add|draw|put} a <size> <color> shape <place>, of the same {form|kind} as the {first "
                    "one|one you added first}"
                ),
                (
                    "{repeat|reuse} the shape {of the first edit|you added first}: {put|draw} it once more "
                    "<place>, <size> and <color>"
                ),
            ],
            "zh": [
                "在<place>{添加|画|放}一个<size><color>图形，形状{和|与}{第一个|最先添加的那个}{相同|一样}",
                "用{第一次|最开始}添加过的形状，在<place>再{画|加}一个，{要|要求}<size><color>",
            ],
        }
    },
    # content understanding: `it` is what the dialogue has been about
    "it": {
        "shape_color": {
            "en": [
                "{make|turn|paint|color} it <new_color> {now|instead}",
                "{change|turn} its color to <new_color>",
            ],
            "zh": [
                "{把它|将它}{改成|变成|涂成|换成}<new_color>",
                "{把它的|将它的|它的}颜色{改成|换成|改为}<new_color>",
            ],
        },
        "move": {
            "en": [
                "{now|next}, {move|shift|bring} it to <to_place:spot>",
                "{move|shift|bring} it to <to_place:spot>",
            ],
            "zh": ["{把它|将它}{移到|移动到|挪到|放到}<to_place>", "{让它|使它}{移到|移动到}<to_place>"],
        },
        "replace": {
            "en": [
                "{replace|substitute} it {with|by} a <new_color> <new_shape> [of the same size]",
                "{turn|change|transform} it into a <new_color> <new_shape> [of the same size]",
            ],
            "zh": [
                "{把它|将它}{换成|替换成|变成}[同样大小的]<new_color><new_shape>",
                "用<new_color><new_shape>{替换|代替}它",
            ],
        },
        "resize": {
            "en": ["{make|redraw} it <new_size> {now|instead}", "{change|set} its size to <new_size>"],
            "zh": [
                "{把它|将它}{变成|改成|调整为}<new_size>",
                "{把它的|将它的}{大小|尺寸}{改成|调整为}<new_size>",
            ],
        },
    },
    # version backtracking: the turn edits an earlier version
    **{wording: {"add": patterns, "region": patterns} for wording, patterns in _AFTER_GOING_BACK.items()},
}
