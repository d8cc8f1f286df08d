"""Kind `tokenizer`: ids of texts by open_clip's tokenizer, and by SentencePiece's models."""
import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import ftfy
import sentencepiece
from open_clip.tokenizer import SimpleTokenizer

Spec = dict[str, Any]
WORDS = ("a photo of the Aquarium fish maple_tree T-shirt DOG HDPE polka-dotted café Übergröße façade naïve ΣΊΣΥΦΟΣ "
         "Ёлка straße İstanbul ǅungla e\u0301te\u0301 A\u030angstro\u0308m 日本語 テスト 사과 สวัสดี नमस्ते مرحبا שלום "
         "x y don't WE'LL they've I'm he'd you're it's O'Neill rock'n'roll 's").split()
NUMBERS = "0 7 42 1999 3.14159 2,000 1e-5 ½ x² Ⅷ ٣٤ 100% №5".split()
MARKS = "! ?! ... — – - _ / \\ | ~ ^ ` @ # $ € % & * ( ) [ ] { } < > = + ; : , . \" ' « » … • ™ ° !!!???".split()
ENTITIES = ("&amp; &lt; &gt; &quot; &#39; &nbsp; &amp;amp; &amp;lt;b&amp;gt; &eacute; &hellip; &copy; &#233; &#xE9; &#128512; "
            "&notanentity; &amp &copy2 AT&T R&D &;").split()
EMOJI = "🙂 👩‍🔬 🇨🇭 👍🏽 ❤️ 🏳️‍🌈 ☃".split()
QUOTES = "‘curly’ “quotes” ‚low‛ „low‟ it’s".split()
ODD = ("\ufb01ne o\ufb03ce ＦＵＬＬ　ｗｉｄｔｈ ｶﾅ zero\u200bwidth soft\u00adhyphen \x1b[31mred\x1b[0m bell\x07 \ufeffbom "
       "ŉ \ufb05 ǆ x\u0085y \u2028 ﬁ\u0301 </w> a</w>").split(" ") + [" <start_of_text>", " <end_of_text>"]
"""What repairs and maps of characters change, and CLIP's control tokens, never right behind a sign: there OpenCLIP takes the
first of their signs for one more of that."""
SPACES = [" ", " ", " ", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", ""]


def text(r: Random, kinds: list[list[str]]) -> str:
    """Some pieces of some kinds, in any case, between any white space."""
    if r.random() < 0.05:
        return r.choice(["", " ", "\n\t"])
    pieces = []
    for _ in range(r.choice([1, 3, 6, 12, 40])):
        piece = r.choice(r.choice(kinds))
        pieces += [r.choice([piece, piece, piece, piece.upper(), piece.capitalize()]), r.choice(SPACES)]
    return "".join(pieces[:-1])


def readable(r: Random, kinds: list[list[str]]) -> str:
    """A text that OpenCLIP does not take for one that was decoded as the wrong encoding."""
    while ftfy.fix_encoding(one := text(r, kinds)) != one or ftfy.fix_text(one) != ftfy.fix_text(one, fix_encoding=False):
        pass
    return one


def write_vectors(folder: Path, architecture: str, vectors: Spec) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"kind": "tokenizer", "architecture": architecture}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "vectors.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


def clip_tokenizer(folder: Path, spec: Spec) -> None:
    """Rows as the encoder of texts reads them, up to the first end. Its merges are open_clip's, and in no folder."""
    r, tokenizer = Random(spec["seed"]), SimpleTokenizer()
    texts = [readable(r, [WORDS, WORDS, NUMBERS, MARKS, ENTITIES, EMOJI, QUOTES, ODD]) for _ in range(spec["texts"])]
    rows = tokenizer(texts, spec["context_length"]).tolist()
    end = tokenizer.eot_token_id
    write_vectors(folder, "open_clip", {
        **spec, "sot": tokenizer.sot_token_id, "eot": end,
        "cases": [{"text": t, "ids": row[:row.index(end) + 1]} for t, row in zip(texts, rows, strict=True)]})


def train(spec: Spec, r: Random, model: Path) -> None:
    """A small model of sentences made of some of the words, so that the others are in pieces, or unknown."""
    known = r.sample(WORDS, 30) + r.sample(NUMBERS, 5) + r.sample(MARKS, 8)
    with tempfile.TemporaryDirectory() as d:
        corpus = Path(d) / "corpus.txt"
        corpus.write_text("\n".join(" ".join(r.choice(known) for _ in range(12)) for _ in range(1000)))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=f"{d}/trained", character_coverage=1.0, hard_vocab_limit=False,
            num_threads=1, minloglevel=2, **spec["trainer"])
        shutil.copy(f"{d}/trained.model", model)


def sentence_piece(folder: Path, spec: Spec) -> None:
    """Ids without beginning and end, and the text that they are decoded to."""
    r = Random(spec["seed"])
    folder.mkdir(parents=True, exist_ok=True)
    train(spec, r, folder / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    cases = []
    for _ in range(spec["texts"]):
        one = text(r, [WORDS, WORDS, NUMBERS, MARKS, ENTITIES, EMOJI, QUOTES, ODD])
        ids = model.encode(one)
        case = {"text": one, "ids": ids}
        cases.append(case | ({"back": model.decode(ids)} if model.unk_id() not in ids else {}))
    write_vectors(folder, "sentencepiece", {**spec, "cases": cases})
