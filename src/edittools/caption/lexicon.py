"""Words for slot values: kind of word -> value -> language -> a grammar pattern of synonyms.

Slots hold language-neutral keys (`top_left`, `red`, `slight`). Synonyms must mean exactly the same
thing, since the wording alone has to determine the edit. A value without an entry (a number, a text
to write) is inserted as it stands. `FRAGMENTS` are phrases that many templates share.
"""

from edittools.caption.grammar import Literal

LANGUAGES = ("en", "zh")

Words = dict[str, dict[str, str]]  # value -> language -> pattern


def _words(**entries: tuple[str, str]) -> Words:
    return {key: dict(zip(LANGUAGES, both)) for key, both in entries.items()}


WORDS: dict[str, Words] = {
    "color": _words(
        red=("red", "红色"),
        orange=("orange", "橙色"),
        yellow=("yellow", "黄色"),
        green=("green", "绿色"),
        cyan=("cyan", "青色"),
        blue=("blue", "蓝色"),
        purple=("purple", "紫色"),
        pink=("pink", "粉色"),
        brown=("brown", "棕色"),
        black=("black", "黑色"),
        white=("white", "白色"),
        gray=("gray", "灰色"),
    ),
    "shape": _words(
        square=("square", "{正方形|方块}"),
        circle=("circle", "{圆形|圆}"),
        triangle=("triangle", "三角形"),
        star=("star", "{五角星|星形}"),
        diamond=("diamond", "菱形"),
        cross=("cross", "十字形"),
    ),
    "size": _words(
        small=("small", "{小号的|小的}"),
        medium=("{medium-sized|mid-sized}", "{中号的|中等大小的}"),
        large=("{large|big}", "{大号的|大的}"),
    ),
    # where something is
    "place": _words(
        top_left=("in the {top left|upper left|top-left} corner", "{左上角|左上方}"),
        top=("at the {top center|top middle}", "{顶部中间|上方正中}"),
        top_right=("in the {top right|upper right|top-right} corner", "{右上角|右上方}"),
        left=("at the {middle|center} of the left {side|edge}", "{左侧中间|左边正中}"),
        center=("in the {center|middle} of the {picture|image}", "{正中间|画面中央|图片中心}"),
        right=("at the {middle|center} of the right {side|edge}", "{右侧中间|右边正中}"),
        bottom_left=("in the {bottom left|lower left|bottom-left} corner", "{左下角|左下方}"),
        bottom=("at the {bottom center|bottom middle}", "{底部中间|下方正中}"),
        bottom_right=("in the {bottom right|lower right|bottom-right} corner", "{右下角|右下方}"),
    ),
    # a place as a noun
    "spot": _words(
        top_left=("the {top left|upper left} corner", "{左上角|左上方}"),
        top=("the {top center|middle of the top edge}", "{顶部中间|上方正中}"),
        top_right=("the {top right|upper right} corner", "{右上角|右上方}"),
        left=("the {middle|center} of the left {side|edge}", "{左侧中间|左边正中}"),
        center=("the {center|middle} of the {picture|image}", "{正中间|画面中央|图片中心}"),
        right=("the {middle|center} of the right {side|edge}", "{右侧中间|右边正中}"),
        bottom_left=("the {bottom left|lower left} corner", "{左下角|左下方}"),
        bottom=("the {bottom center|middle of the bottom edge}", "{底部中间|下方正中}"),
        bottom_right=("the {bottom right|lower right} corner", "{右下角|右下方}"),
    ),
    # one of two sides
    "side": _words(left=("left", "左"), right=("right", "右")),
    # one of the nine cells of a 3 x 3 grid
    "cell": _words(
        top_left=("{top left|upper left}", "左上"),
        top=("{top middle|top center}", "中上"),
        top_right=("{top right|upper right}", "右上"),
        left=("{middle left|center left}", "左中"),
        center=("{central|middle}", "正中"),
        right=("{middle right|center right}", "右中"),
        bottom_left=("{bottom left|lower left}", "左下"),
        bottom=("{bottom middle|bottom center}", "中下"),
        bottom_right=("{bottom right|lower right}", "右下"),
    ),
    # after a verb phrase; the medium strength is the unmarked one, in all three kinds
    "strength": _words(
        slight=("{slightly|a little|a bit}", "{稍微|略微|稍稍}"),
        medium=("", ""),
        strong=("{strongly|a lot|heavily}", "{大幅|大幅度|明显}"),
    ),
    # before a verb
    "adverb": _words(
        slight=("{slightly|mildly}", "{稍微|略微}"),
        medium=("", ""),
        strong=("{strongly|heavily}", "{大幅|大幅度}"),
    ),
    # before a noun
    "degree": _words(
        slight=("{slight|mild|subtle}", "{轻微的|轻度的}"),
        medium=("", ""),
        strong=("{strong|heavy|very noticeable}", "{强烈的|重度的}"),
    ),
    # before an adjective, as in `much brighter`
    "comparative": _words(
        slight=("{slightly|a little|a bit}", "{稍微|略微}"),
        medium=("", ""),
        strong=("{much|far|a lot}", "{明显|大大}"),
    ),
    # before an adjective that is not a comparative, as in `very blurry`
    "intensity": _words(
        slight=("{slightly|a little|a bit}", "{稍微|略微}"),
        medium=("", ""),
        strong=("{very|really|extremely}", "{非常|十分}"),
    ),
    "times": _words(
        slight=("{1.25 times|1.25x}", "1.25倍"),
        medium=("{1.5 times|1.5x}", "1.5倍"),
        strong=("{2 times|2x|twofold}", "2倍"),
    ),
    "factor": _words(
        slight=("1.25", "1.25"),
        medium=("1.5", "1.5"),
        strong=("{2|two}", "2"),
    ),
    "blocks": _words(
        slight=("{fine|small}", "{细小|小}"),
        medium=("{medium|medium-sized}", "中等大小的"),
        strong=("{coarse|large}", "{粗大|大}"),
    ),
    "turn": _words(
        right=(
            "{90 degrees clockwise|a quarter turn clockwise|90° to the right}",
            "顺时针{旋转|转动}{90度|90°}",
        ),
        left=(
            "{90 degrees counterclockwise|a quarter turn counterclockwise|90° to the left}",
            "逆时针{旋转|转动}{90度|90°}",
        ),
        half=("{180 degrees|by 180°|by half a turn|upside down}", "{旋转|转动}{180度|180°|半圈}"),
    ),
    "angle": _words(
        right=("{90 degrees clockwise|90° to the right}", "顺时针{90度|90°}"),
        left=("{90 degrees counterclockwise|90° to the left}", "逆时针{90度|90°}"),
        half=("{180 degrees|180°}", "{180度|180°}"),
    ),
    "half": _words(
        left_half=("left half", "{左半边|左半部分}"),
        right_half=("right half", "{右半边|右半部分}"),
        top_half=("{top|upper} half", "{上半边|上半部分}"),
        bottom_half=("{bottom|lower} half", "{下半边|下半部分}"),
    ),
    "opposite": _words(
        left_half=("right half", "{右半边|右半部分}"),
        right_half=("left half", "{左半边|左半部分}"),
        top_half=("{bottom|lower} half", "{下半边|下半部分}"),
        bottom_half=("{top|upper} half", "{上半边|上半部分}"),
    ),
    # a piece of the image cut out in a shape
    "cutout": _words(
        square=("square {photo|picture} [cut-out]", "{正方形|方形}的照片[抠图]"),
        circle=("{round|circular} {photo|picture} [cut-out]", "圆形的照片[抠图]"),
        triangle=("triangular {photo|picture} [cut-out]", "三角形的照片[抠图]"),
        diamond=("diamond-shaped {photo|picture} [cut-out]", "菱形的照片[抠图]"),
    ),
    "pair": _words(
        red_green=("{red and green|green and red}", "{红色和绿色|绿色和红色|红、绿}"),
        green_blue=("{green and blue|blue and green}", "{绿色和蓝色|蓝色和绿色|绿、蓝}"),
        red_blue=("{red and blue|blue and red}", "{红色和蓝色|蓝色和红色|红、蓝}"),
    ),
    "outcome": _words(
        red_green=("what was red is green now and what was green is red", "原来的红色变成绿色，绿色变成红色"),
        green_blue=(
            "what was green is blue now and what was blue is green",
            "原来的绿色变成蓝色，蓝色变成绿色",
        ),
        red_blue=("what was red is blue now and what was blue is red", "原来的红色变成蓝色，蓝色变成红色"),
    ),
    "backdrop": _words(
        solid=("{plain|solid} <new_color> {background|backdrop}", "纯<new_color>背景"),
        gradient=(
            "<new_color>-to-<second_color> gradient {background|backdrop}, <new_color> at the top and "
            "<second_color> at the bottom",
            "{上<new_color>下<second_color>的渐变背景|从上到下由<new_color>变为<second_color>的渐变背景}",
        ),
        checker=(
            "{checkerboard|checkered} {background|backdrop} in <new_color> and <second_color>",
            "<new_color>与<second_color>相间的棋盘格背景",
        ),
        stripes=(
            "{background|backdrop} of horizontal <new_color> and <second_color> stripes",
            "<new_color>与<second_color>相间的横条纹背景",
        ),
    ),
    "material": _words(
        wood=("{wood|wooden boards}", "{木头|木质}"),
        stone=("{stone|rough stone}", "{石头|石质}"),
        brick=("{brick|brickwork}", "{砖块|砖墙}"),
        checker=("{black-and-white checkered tiles|black-and-white checkerboard tiles}", "黑白棋盘格瓷砖"),
        metal=("{brushed metal|brushed steel}", "{拉丝金属|拉丝钢}"),
    ),
    # what `region` does to a cell
    "operation": _words(
        brighten=("{brighten|lighten}", "{调亮|提亮}"),
        darken=("{darken|dim}", "{调暗|变暗}"),
        gray=("{remove all color from|take all color out of}", "{变成黑白|去色}"),
        invert=("{invert the colors of|reverse the colors of}", "{反相|颜色反转}"),
        blur=("blur", "{模糊化|变模糊}"),
    ),
    "result": _words(
        brighten=("brighter", "变亮"),
        darken=("darker", "变暗"),
        gray=("black and white", "变成黑白"),
        invert=("a negative", "变成负片"),
        blur=("blurred", "变模糊"),
    ),
}

FRAGMENTS: dict[str, dict[str, str]] = {
    "en": {
        "picture": "{the|this} {picture|image|photo}",
        "whole": "{the|this} [whole|entire] {picture|image|photo}",
        "thing": "<size> <color> <shape>",
        "that_thing": "the <thing> <place>",
    },
    "zh": {
        "picture": "{图片|照片|这张图片|这张照片|图像}",
        "whole": "{整张图片|整张照片|整幅画面|这张图片|图片|照片}",
        "ba": "{把|将}",
        "thing": "<size><color><shape>",
        "that_thing": "<place>{的|那个}<thing>",
    },
}


def word(name: str, kind: str, slots: dict, lang: str) -> str:
    """The pattern for slot `name`; a shared fragment if the sample has no such slot."""
    if name not in slots:
        return FRAGMENTS[lang][name]
    entry = WORDS.get(kind, {}).get(str(slots[name]))
    return entry[lang] if entry else Literal(slots[name])


# What text templates write. Pairs of like length keep the lettering's size when one replaces the other.
LATIN_TEXTS = (
    "OPEN", "SALE", "HELLO", "CAFE", "EXIT", "SUMMER", "MUSIC", "PARIS", "COFFEE", "MARKET", "BAKERY",
    "HOTEL", "GARDEN", "WINTER", "TRAVEL", "DREAM", "SMILE", "NORTH", "OCEAN", "PIZZA", "TODAY", "FRESH",
)  # fmt: skip
CHINESE_TEXTS = (
    "你好", "欢迎", "出口", "春天", "夏天", "北京", "上海", "咖啡", "书店", "花园", "音乐", "旅行", "早安",
    "新年", "快乐", "茶馆", "面馆", "电影", "海洋", "山水",
)  # fmt: skip
