# Makes gpt2.bin and pile.bin, the merges of two vocabularies as pairs of tokens.
#   npm pack js-tiktoken@1.0.21
#   python pack.py 20B_tokenizer.json js-tiktoken-1.0.21.tgz
import base64, json, re, struct, sys, tarfile


def write(name, tokens):
    with open(name, "wb") as file:
        file.write(struct.pack(f"<{len(tokens)}H", *tokens))


model = json.load(open(sys.argv[1]))["model"]
write("pile.bin", [model["vocab"][part] for merge in model["merges"] for part in merge.split(" ")])

source = tarfile.open(sys.argv[2]).extractfile("package/dist/ranks/gpt2.js").read().decode()
lines = re.search(r'bpe_ranks"?\s*[:=]\s*"([^"]*)"', source)[1].encode().decode("unicode_escape")
rank = {}
for line in lines.split("\n"):
    _, first, *tokens = line.split(" ")
    rank.update({base64.b64decode(token): int(first) + i for i, token in enumerate(tokens)})


def parts(token):
    """The two tokens that a token was merged of: what the earlier merges make of its bytes."""
    now = [token[i : i + 1] for i in range(len(token))]
    while len(now) > 2:
        _, at = min((rank.get(now[i] + now[i + 1], len(rank)), i) for i in range(len(now) - 1))
        now[at : at + 2] = [now[at] + now[at + 1]]
    return now


order = sorted(rank, key=rank.get)
write("gpt2.bin", [rank[part] for token in order[256:] for part in parts(token)])
