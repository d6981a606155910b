"""Which language is a text written in? By script, by letters that one language of a script has alone, by its commonest words.

No model and no data file: enough to check that an answer is in the language that was asked for, not to tell dialects apart.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from payoff.signals.tags import script_of

# Scripts that, among the languages known here, only one language is written in.
_ONE_SCRIPT = {
    "hiragana": "ja", "katakana": "ja", "hangul": "ko", "greek": "el", "hebrew": "he", "thai": "th", "bengali": "bn", "tamil": "ta",
    "telugu": "te", "kannada": "kn", "gujarati": "gu", "gurmukhi": "pa", "malayalam": "ml", "georgian": "ka", "armenian": "hy",
    "han": "zh",
}  # fmt: skip
# Of scripts that several share: letters that give a language away (each once, the first that has one decides), then the one left.
_LETTERS = {
    "cyrillic": (("uk", "іїєґ"), ("ru", "ыэё"), ("bg", "ъ")),
    "arabic": (("ur", "ٹڈڑںےھ"), ("fa", "پچژگیک"), ("ar", "")),
}
# Frequent short words, most of them in few of the languages that share a script.
_WORDS = {
    "en": "the of and to in is that it was for are with as his they this have from not but what all were when your can there an be",
    "de": "der die das und ist nicht ein eine zu den mit von auf für im dem sich auch als es an werden aus er hat dass sie nach",
    "fr": "le la les des et est un une du que qui dans pour pas sur au avec ce il sont plus par mais nous vous ont cette à se ne",
    "es": "el la los las de que y en un una es por con para no se del su al lo como más pero sus le ya o este porque esta muy",
    "pt": "o a os as de que e do da em um uma para com não por mais dos das no na se ao como mas foi seu sua pelo são é você",
    "it": "il la di che e un una per non in sono con del della si da come le dei al ma nel anche gli più lo questo alla è ci",
    "nl": "de het een van en is dat op te in voor niet met zijn aan er ook als bij maar door naar om dan nog wordt heeft deze je",
    "pl": "i w na się z nie do jest to że o jak po co ale za przez od są tym dla oraz tego może być czy jego tak tylko te",
    "sv": "och att det som en på är av för med den till inte har de ett om var jag men så från kan vi hade han sig vid ska nu",
    "cs": "a je se na v že to s z do o i za jako by pro jsem ale po tak jsou jeho od k bylo který může byl při už",
    "fi": "ja on ei että se oli hän mutta ovat kuin myös joka kun niin tämä voi sen ole hänen tai mitä olla sitä jos vain",
    "tr": "bir ve bu da de için ile olarak çok daha gibi olan en kadar ne var o sonra ama değil her ya olduğu ki mi bunu",
    "vi": "và là của có trong được cho không một với các những để này đã người đến từ khi về",
    "id": "yang dan di ini itu dengan untuk dari dalam tidak pada adalah ke akan juga atau oleh sebagai ada dapat karena mereka",
    "sw": "na ya wa kwa ni katika la za cha kuwa hii hiyo yake kama watu pia lakini mtu siku sana wote kila hadi baada au vya ili",
    "hi": "है और के की का में से को हैं पर यह नहीं था कर ने लिए ही हो",
    "mr": "आहे आणि या त्या नाही हे ते होते आहेत म्हणून हा ही एक केले आले",
    "ne": "छ र को मा ले पनि यो हो छन् थियो लाई गर्न भएको तर छैन गरेको भने",
}  # fmt: skip
_DEVANAGARI = ("hi", "mr", "ne")
_OF_SCRIPT = {"devanagari": _DEVANAGARI, "latin": tuple(language for language in _WORDS if language not in _DEVANAGARI)}
LANGUAGES = frozenset(_ONE_SCRIPT.values()) | frozenset(_WORDS) | {name for names in _LETTERS.values() for name, _ in names}
_MOST = 20_000  # characters that are read
_WORD = re.compile(r"[^\s\d.,;:!?()\[\]{}\"'*_#<>/|\u0964-]+")


def language_of(text: str) -> str | None:
    """The language of a text as a code of two letters; None where nothing tells, as in text without letters or a name alone.

    The script that most letters are written in decides where only one language known here has it (with a kana in a hundred letters
    Chinese characters are Japanese). Ukrainian, Russian and Bulgarian, and Urdu, Persian and Arabic are told apart by letters of
    their own; of the languages in Latin script and in Devanagari the one whose thirty commonest words make up most of the text,
    unless none does or two do alike. Reliable from a sentence or two on. The first 20,000 characters are read.

    >>> [language_of(said) for said in ("It is what you are looking for.", "Das ist nicht der Weg.", "они здесь, это мы", "12")]
    ['en', 'de', 'ru', None]
    """
    text = text[:_MOST].lower()
    letters = Counter(script_of(character) for character in text if character.isalpha())
    if not letters:
        return None
    kana = letters["hiragana"] + letters["katakana"]
    if kana and 100 * kana >= letters["han"] and kana + letters["han"] >= letters.total() / 2:
        return "ja"
    script, count = letters.most_common(1)[0]
    if 2 * count <= letters.total():
        return None
    if script in _ONE_SCRIPT:
        return _ONE_SCRIPT[script]
    for language, signs in _LETTERS.get(script, ()):
        if not signs or any(sign in text for sign in signs):
            return language
    words = Counter(_WORD.findall(text))
    scores = sorted(((sum(words[word] for word in _words(of)), of) for of in _OF_SCRIPT.get(script, ())), reverse=True)
    if not scores or not scores[0][0] or scores[0][0] == scores[1][0]:
        return None
    return scores[0][1]


@lru_cache(maxsize=64)
def _words(language: str) -> frozenset[str]:
    return frozenset(_WORDS[language].split())
