"""User-like: somebody with a reason asks for help, in the words they would use."""

import numpy as np

from edittools.caption.grammar import Literal, sentence
from edittools.caption.wording import imperative, say

PERSONAS = {
    "en": [
        "I'm {putting together|making} {a slide deck|a poster|a flyer|a school project|a blog post} and",
        "I {run|have} {a small shop|a little online store|a travel blog|a photo page} and",
        "my {mom|sister|boss|teacher|client|friend} asked me for this, and",
        "this is for {a friend|my boss|class}, and",
        "I'm {new to|not good with|a beginner at} {photo editing|image editors|this}, so",
    ],
    "zh": [
        "我在{做|准备}{幻灯片|海报|传单|作业|一篇博客}，",
        "我{开了|经营}一家{小店|网店|小餐馆}，",
        "{我妈|我姐|老板|老师|客户|朋友}{让我改一下这张图|想要改一下这张图}，",
        "我{刚开始学|不太会|不懂}{修图|图片编辑|用修图软件}，",
    ],
}
REQUESTS = {
    "en": [
        (
            "[hi, |hey, |hello! ][<persona> I need {some help|a hand}: ]{could|can|would} you [please] "
            "<core>?[ {thanks|thank you}!]"
        ),
        "[hi, |hey, ][<persona> ]I'd {like|love} you to <core>, {if possible|if you can|please}",
        "[hello! ]{<persona> I wonder|I was wondering}: {could|can} you <core>?",
    ],
    "zh": [
        "[你好，|嗨，][<persona>]{能不能|能否|可不可以}{帮我|帮忙}<core>[呢]？[谢谢！|多谢！]",
        "[你好，|嗨，][<persona>]麻烦{帮我|帮忙|你}<core>[，{谢谢|多谢|辛苦了}]",
        "[你好，][<persona>]{想请你|希望你能|想麻烦你}{帮我|帮忙}<core>[，谢谢]",
    ],
}


def write(name: str, slots: dict, lang: str, rng: np.random.Generator) -> str:
    words = {
        "core": Literal(imperative(name, slots, lang, rng)),
        "persona": Literal(say(PERSONAS[lang], {}, lang, rng)),
    }
    return sentence(say(REQUESTS[lang], words, lang, rng), lang)
