# Makes small.txt, lines.jsonl and expected.json: what nanoGPT's prepare.py writes, as SHA-256 and numbers of
# tokens, for a small text of many scripts, for documents, and for Tiny Shakespeare.
#   pip install numpy tiktoken                         (CPython 3.8 to 3.13: 3.14 pickles another protocol)
#   python make.py gpt2.tiktoken tinyshakespeare.txt   (the ranks of GPT-2, a line "base64 rank" for each token)
import base64, hashlib, json, pickle, random, re, sys
import numpy as np
import tiktoken

ranks = {}
for line in open(sys.argv[1]):
    token, rank = line.split()
    ranks[base64.b64decode(token)] = int(rank)
pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
gpt2 = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})

words = ("the whale and a king, of sea; Who's there? it's naïve “quoted” Grüße 世界 日本 мир 😀 42 -- don't <|endoftext|> "
         "O! would; thy (thou) never\n more than ever\n\n Speak. you'll SEE\n").split(" ")
chance = random.Random(5)

def text(n):
    # With and without a space at the beginning of lines: a text can be cut at some of them only.
    return re.sub("\n ", lambda _: chance.choice(["\n ", "\n", "\n"]), " ".join(chance.choice(words) for _ in range(n)))

small = text(1500)
open("small.txt", "w", encoding="utf-8", newline="\n").write(small)
documents = [text(chance.choice([0, 1, 5, 40, 400])) for _ in range(60)]
with open("lines.jsonl", "w", encoding="utf-8", newline="\n") as file:
    for document in documents:
        file.write(json.dumps({"text": document}, ensure_ascii=chance.random() < 0.5) + "\n")

def summary(ids):
    data = np.array(ids, dtype=np.uint16).tobytes()
    return {"tokens": len(ids), "sha256": hashlib.sha256(data).hexdigest()}

def shakespeare_char(data):
    chars = sorted(list(set(data)))
    stoi = {ch: i for i, ch in enumerate(chars)}
    itos = {i: ch for i, ch in enumerate(chars)}
    n = len(data)
    meta = pickle.dumps({"vocab_size": len(chars), "itos": itos, "stoi": stoi}, protocol=4)
    return {"train": summary([stoi[c] for c in data[: int(n * 0.9)]]), "val": summary([stoi[c] for c in data[int(n * 0.9):]]),
            "meta": hashlib.sha256(meta).hexdigest()}

def shakespeare(data):
    n = len(data)
    return {"train": summary(gpt2.encode_ordinary(data[: int(n * 0.9)])), "val": summary(gpt2.encode_ordinary(data[int(n * 0.9):]))}

tiny = open(sys.argv[2], encoding="utf-8", newline="").read()
ends = [token for document in documents for token in gpt2.encode_ordinary(document) + [50256]]
json.dump({
    "small": {"shakespeare_char": shakespeare_char(small), "shakespeare": shakespeare(small)},
    "tinyshakespeare": {"shakespeare_char": shakespeare_char(tiny), "shakespeare": shakespeare(tiny)},
    "lines": summary(ends),
}, open("expected.json", "w"), indent=1)
