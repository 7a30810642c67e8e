# Makes tokens.json and bpe.json: what Hugging Face's tokenizers, and tiktoken, make of a text of many scripts.
#   pip install tokenizers==0.23.3 tiktoken
#   python make.py 20B_tokenizer.json gpt2.tiktoken   (the ranks of GPT-2, a line "base64 rank" for each token)
import base64, json, sys
import tiktoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

text = (
    "Hello, world! It's 12345 o'clock;   don't  you'd\n\n\tGRÜSSE, Grüße café cafe\u0301 ﬁ\r\n"
    "日本語のテキスト。 Привет, мир! مرحبا بالعالم नमस्ते 안녕하세요 😀👍🏽 \u200b\u00a0x = [1, 2];    y\n"
    "        def f(x):\n            return x ** 2  # indented\n" + "a" * 40 + " " * 30 + "\n\n\n\nend"
)
ranks = {}
for line in open(sys.argv[2]):
    token, rank = line.split()
    ranks[base64.b64decode(token)] = int(rank)
pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
gpt2 = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
pile = Tokenizer.from_file(sys.argv[1])
json.dump(
    {"text": text, "gpt2": gpt2.encode_ordinary(text), "20b": pile.encode(text, add_special_tokens=False).ids},
    open("tokens.json", "w"), ensure_ascii=False,
)

# The merges of a BPE trained on a text of few words, with many ties and repeated letters.
corpus = ["low lower lowest newer wider widest aaaa aaaaa aa banana bananas", "lower newer newest, wide; Grüße grüßen ß",
          "aaaaaaa abababab babababa  two  spaces\n\nlines\n"] * 3
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.decoder = decoders.ByteLevel()
bpe.train_from_iterator(corpus, trainers.BpeTrainer(
    vocab_size=256 + 60, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
json.dump({"corpus": corpus, "merges": json.loads(bpe.to_str())["model"]["merges"]}, open("bpe.json", "w"),
          ensure_ascii=False)
