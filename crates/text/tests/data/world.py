"""Writes world.json: texts and their tokens, by the tokenizer of the PyPI package rwkv (made with 0.8.32).

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install --no-deps rwkv
    /tmp/venv/bin/python crates/text/tests/data/world.py
"""

import importlib.util
import json
import random
import unicodedata
from pathlib import Path

# The package itself needs torch, its tokenizer does not.
package = Path(importlib.util.find_spec("rwkv").origin).parent
spec = importlib.util.spec_from_file_location("rwkv_tokenizer", package / "rwkv_tokenizer.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
tokenizer = module.TRIE_TOKENIZER(package / "rwkv_vocab_v20230424.txt")

rng = random.Random(20230424)
vocabulary = list(tokenizer.idx2token.values())

texts = [
    "The quick brown fox jumps over the lazy dog; it didn't, in 1984, cost $3.50 (or 4,99 €)!",
    "fn main() {\n    let x: Vec<u32> = (0..10).map(|i| i * i).collect();\n\t println!(\"{x:?}\");\n}\n",
    "Die Größe der Straße überrascht. L'été, ça coûte cher à Noël. ¿Dónde está el niño? Žluťoučký kůň.",
    "Быстрая лиса прыгнула через забор. Η γρήγορη αλεπού πήδηξε. השועל המהיר קפץ. الثعلب السريع قفز.",
    "敏捷的狐狸跳过了懒狗。吾輩は猫である。名前はまだ無い。빠른 여우가 뛰어넘었다. ตัวอย่าง ภาษาไทย हिन्दी में உதாரணம்",
    "\r\n\r\n\n\n\n \t \t\t    \u3000\u00a0\u200b\ufeff e\u0301 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1fa\U0001f1e6",
    "=" * 67 + "\n" + " " * 300 + "-" * 129 + "\n" + "\0" * 33 + "0" * 70 + "a" * 41,
    "https://example.org/a/b.html?q=%20x#y {\"key\": [1, 2.5e-3, null]} <div class=\"a\">&nbsp;</div> \\frac{a}{b}",
    # A letter of each script.
    "".join({unicodedata.name(chr(c), "x y").split()[0]: chr(c) for c in range(0x20, 0x20000)
             if unicodedata.category(chr(c))[0] == "L"}.values()),
    # Characters of each length in bytes.
    "".join(chr(rng.choice([rng.randrange(0x80), rng.randrange(0x80, 0x800), rng.randrange(0x800, 0xD800),
                            rng.randrange(0x10000, 0x110000)])) for _ in range(400)),
]
inputs = [text.encode() for text in texts]
inputs += [b"".join(rng.choices(vocabulary, k=60)) for _ in range(10)]
inputs += [rng.randbytes(400)]
cases = [{"hex": bytes.hex(), "tokens": tokenizer.encodeBytes(bytes)} for bytes in inputs]
lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
Path(__file__).with_suffix(".json").write_text(f"[\n{lines}\n]\n")
print(f"{len(cases)} texts, {sum(map(len, inputs))} bytes, {sum(len(case['tokens']) for case in cases)} tokens")
