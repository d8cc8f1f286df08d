"""Makes the samples beside this file: small models of SentencePiece, and what SentencePiece itself reads of some texts.

    python3 -m venv venv && venv/bin/pip install sentencepiece==0.2.3
    venv/bin/python common/tokenizer/tests/samples/make.py
"""

import json
import os
import pathlib
import random

import sentencepiece

HERE = pathlib.Path(__file__).parent
NOUNS = "apple aquarium baby bear bottle bridge castle chair cloud dolphin forest lamp maple mountain otter pepper".split()
WORDS = "a the of photo picture is that texture pattern with two on small low resolution surface looks banded dotted".split()
TEXTS = [
    "a photo of a maple tree.",
    "A  picture of   the Aquarium",
    "polka-dotted, low resolution!",
    " leading and trailing ",
    "",
    "naïve café – über façade",
    "日本語",
    "1234 5",
    "tab\tand\nnewline",
    "\n\tnewline in front, tab behind\t",
    "don't we'll",
    "ﬁne ligature ½",
    "ﬁ\u0301ne accents: Å\u030a n\u0303 ½\u0308",
    "x" * 30,
    "<s> in a text </s>",
]

random.seed(1)
# Models keep the path of what they were trained on: a relative one tells nothing of the machine.
os.chdir(HERE)
corpus = pathlib.Path("corpus.txt")
lines = (" ".join(random.choice(WORDS + NOUNS) for _ in range(12)) + random.choice([".", "!", ", 12", ""]) for _ in range(2000))
corpus.write_text("\n".join(lines))

KINDS = {
    "unigram": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"},
    "bpe": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
            "vocab_size": 400},
    "bpe_without_prefix": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
                           "remove_extra_whitespaces": False, "add_dummy_prefix": False, "vocab_size": 400},
}

vectors = {}
for name, options in KINDS.items():
    options = {"vocab_size": 64, "character_coverage": 1.0, "minloglevel": 2, **options}
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=name, **options)
    pathlib.Path(f"{name}.vocab").unlink()
    model = sentencepiece.SentencePieceProcessor(model_file=str(HERE / f"{name}.model"))
    vectors[name] = [{"text": text, "ids": model.encode(text), "back": model.decode(model.encode(text))} for text in TEXTS]
corpus.unlink()
(HERE / "vectors.json").write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")
