#!/usr/bin/env python3
"""Small tokenizers of every family, with what Hugging Face `tokenizers` makes of tricky texts, for
tests/text/tokenizer_test.cpp.

Writes tests/data/tokenizers/NAME/: tokenizer.json (and companions), oracle.json (a list of {"text", "special",
"plain", "decoded", "decoded_special"}: ids with and without what the post-processor adds, and both decodings of the
former; entries without "text" are ids that no text gave) and, where GGUF has such a tokenizer, tokenizer.gguf, which
must give the same. Needs tokenizers, transformers, sentencepiece and gguf (README.md).
"""
import io
import json
import pathlib
import random

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "tokenizers"
SPACE = "\u2581"

CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog wasn't amused; it's said they'll never be friends again.",
    "Once upon a time there was a little girl who lived in a village near the forest, and everyone who saw her "
    "liked her, but most of all her grandmother did, and she would have given the child anything.",
    "In 1969, 600 million people watched two men walk on the moon; by 2024 there had been 12 of them.",
    "def merge(left, right):\n    return [left[0]] + right\n\n\nfor i in range(10):\n\tprint(i, i ** 2)\n",
    "Der Fuchs läuft über die Straße und überlegt, ob er müde ist. Die Größe der Bäume überrascht ihn.",
    "Le garçon a mangé une pêche près de la forêt, où l'été dure toute l'année.",
    "Быстрая лиса прыгает через ленивую собаку, и собака не рада этому.",
    "私は毎朝コーヒーを飲みます。東京の天気は今日も良いです。",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "The 3 little pigs; THE END! (Or is it?) [yes] {no} <maybe> 100% & more... e-mail: a.b@c.de #1 $5 ~ ^ | \\ / _",
] * 3

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", " \n", "\r\n\r\n", "a", " a", "a ", "  a  b   c    d     ", "Hello world",
    " Hello, world! ", "The dog wasn't there; they'll've said IT'S 'S 't 'Re 'lL.", "1", "12", "1234567 3.14 ½ Ⅷ ٣٤ ①",
    "x1y22z333", "foo\n\n\n  bar\n \n\t\tbaz \r\n qux", "tabs\t\tand\u00a0no-break\u3000wide\u2028line\u180evowel\u200bzero",
    "Der Fuchs läuft über die Straße.", "e\u0301 \u00e9 ﬁ Å Å ｆｕｌｌ ǆ İstanbul", "Быстрая лиса и собака",
    "私は毎朝コーヒーを飲みます。", "सभी मनुष्यों को", "안녕하세요 세계", "👍 👩‍👩‍👧‍👦 🏳️‍🌈 🦙.cpp", "\u0000\u0001\u007f\u0085\ufeff\ufffd\U0010ffff",
    "!!!???...---", "a_b-c.d/e\\f|g", "    def f(x):\n        return x**2\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "▁lower▁block ▁ ▁▁", "<0x41><0x0A>", "'ſ 'K it'ſ", "the the the The THE", "near the forest, and everyone " * 12,
]


def byte_level_trainer(size):
    return trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)


def byte_level(pre_tokenizer, normalizer=None, size=420):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS, byte_level_trainer(size))
    return tokenizer


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def edited(tokenizer, **model):
    data = json.loads(tokenizer.to_str())
    data["model"].update(model)
    return Tokenizer.from_str(json.dumps(data))


def template(tokenizer, bos=None, eos=None):
    pieces = ([bos] if bos else []) + ["$A"] + ([eos] if eos else [])
    names = [t for t in (bos, eos) if t]
    return processors.TemplateProcessing(single=" ".join(pieces), pair=" ".join(pieces) + " $B",
                                         special_tokens=[(t, tokenizer.token_to_id(t)) for t in names])


def gpt2():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer, {"pre": "gpt-2", "eos": "<|endoftext|>", "bos": "<|endoftext|>"}


def llama3():
    tokenizer = edited(byte_level(split(LLAMA3)), ignore_merges=True)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                                    template(tokenizer, "<|begin_of_text|>")])
    return tokenizer, {"pre": "llama-bpe", "bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "eot": "<|eot_id|>"}


def qwen2():
    tokenizer = byte_level(split(QWEN2), normalizers.NFC())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return tokenizer, {"pre": "qwen2", "eos": "<|im_end|>", "pad": "<|endoftext|>", "add_bos": False}


def smollm():
    tokenizer = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                    pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    chat = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    return tokenizer, {"pre": "smollm", "bos": "<|im_start|>", "eos": "<|im_end|>", "unk": "<|endoftext|>",
                       "add_bos": False, "chat": chat}


def sentencepiece_model(**options):
    model = io.BytesIO()
    sentences = [line for text in CORPUS for line in text.split("\n") if line]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=model, model_type="bpe",
                                             byte_fallback=True, vocab_size=520, minloglevel=2, num_threads=1,
                                             normalization_rule_name="identity", remove_extra_whitespaces=False, **options)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def from_sentencepiece(model, prefix, added):
    """As transformers' converters do it."""
    pieces = {model.id_to_piece(i): i for i in range(model.vocab_size())}
    scores = {model.id_to_piece(i): model.get_score(i) for i in range(model.vocab_size())}
    tokenizer = Tokenizer(models.BPE(pieces, generate_merges(pieces, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    before = ([normalizers.Prepend(SPACE)] if prefix else []) + [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence(before) if prefix else before[0]
    after = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(after + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in added["special"]])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added["user"]])
    return tokenizer


def llama2():
    model = sentencepiece_model()
    tokenizer = from_sentencepiece(model, True, {"special": ["<unk>", "<s>", "</s>"], "user": []})
    tokenizer.post_processor = template(tokenizer, "<s>")
    return tokenizer, {"spm": model, "bos": "<s>", "eos": "</s>", "unk": "<unk>"}


def gemma():
    user = ["\n\n", "\n\n\n", "\t\t", SPACE * 2, SPACE * 3, SPACE * 4, "<b>"]
    control = ["<start_of_turn>", "<end_of_turn>"]
    model = sentencepiece_model(user_defined_symbols=user, control_symbols=control, add_dummy_prefix=False, pad_id=0, eos_id=1,
                                bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>")
    tokenizer = from_sentencepiece(model, False, {"special": ["<pad>", "<eos>", "<bos>", "<unk>"] + control, "user": user})
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = template(tokenizer, "<bos>")
    return tokenizer, {"spm": model, "bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "eot": "<end_of_turn>",
                       "prefix": False}


def metaspace():
    """SentencePiece's way as a pre-tokenizer; unknown characters; added tokens of every kind."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC(), normalizers.Lowercase(),
                                                 normalizers.Replace(Regex("[,;]+ *"), ", ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(CORPUS[:6], trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"],
                                                                  show_progress=False))
    tokenizer.add_tokens([AddedToken("Left", lstrip=True, normalized=False), AddedToken("Right", rstrip=True, normalized=False),
                          AddedToken("Word", single_word=True, normalized=False), AddedToken("Plain", normalized=True),
                          AddedToken("Plainer", normalized=True)])
    tokenizer.post_processor = template(tokenizer, "<s>", "</s>")
    return tokenizer, {}


def behaviours():
    """Every behaviour of Split, and Digits in groups."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("-", "removed"), pre_tokenizers.Split(Regex(r"\s"), "merged_with_next"),
        pre_tokenizers.Split(Regex("[.!?]"), "contiguous"), pre_tokenizers.Split("_", "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"(?=[A-Z])"), "isolated"), pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex(r"[^\S\n]+"), "isolated", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    tokenizer.train_from_iterator(CORPUS, byte_level_trainer(380))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["[END]"])
    return tokenizer, {}


def write_gguf(path, tokenizer, about):
    writer = gguf.GGUFWriter(path, "llama")
    added = tokenizer.get_added_tokens_decoder()
    size = max(tokenizer.get_vocab().values()) + 1
    pieces = [tokenizer.id_to_token(i) for i in range(size)]
    kinds = gguf.TokenType
    types = [kinds.NORMAL if i not in added else kinds.CONTROL if added[i].special else kinds.USER_DEFINED for i in range(size)]
    if "spm" in about:
        model = about["spm"]
        scores = [model.get_score(i) for i in range(size)]
        for i in range(size):
            if model.is_byte(i):
                types[i] = kinds.BYTE
            elif model.is_unknown(i):
                types[i] = kinds.UNKNOWN
            elif types[i] == kinds.USER_DEFINED:  # as llama.cpp's converter writes them
                pieces[i] = pieces[i].replace(SPACE, " ")
                scores[i] = -1000.0
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores)
        if "prefix" in about:
            writer.add_add_space_prefix(about["prefix"])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(about["pre"])
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    for name, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("eot", writer.add_eot_token_id),
                      ("unk", writer.add_unk_token_id), ("pad", writer.add_pad_token_id)):
        if name in about:
            add(tokenizer.token_to_id(about[name]))
    if "pad" not in about:  # as some converters say that there is none
        writer.add_pad_token_id(0xFFFFFFFF)
    if "add_bos" in about:
        writer.add_add_bos_token(about["add_bos"])
    if "chat" in about:
        writer.add_chat_template(about["chat"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def entry(tokenizer, ids):
    return {"special": ids, "decoded": tokenizer.decode(ids), "decoded_special": tokenizer.decode(ids, skip_special_tokens=False)}


def oracle(tokenizer, seed):
    choose = random.Random(seed)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = list(TEXTS)
    for token in added:
        texts += [token, f"one {token} two", f"a{token}b  {token} {token}\n"]
    texts += ["".join(choose.choice(TEXTS + added)[:9] for _ in range(5)) for _ in range(15)]
    cases = []
    for text in texts:
        case = {"text": text, "plain": tokenizer.encode(text, add_special_tokens=False).ids}
        cases.append(case | entry(tokenizer, tokenizer.encode(text).ids))
    size = max(tokenizer.get_vocab().values()) + 1
    for _ in range(20):
        cases.append(entry(tokenizer, [choose.randrange(size) for _ in range(12)]))
    return cases


def config(about):
    data = {f"{name}_token": about[name] for name in ("bos", "eos", "unk", "pad") if name in about}
    data["clean_up_tokenization_spaces"] = False
    data["tokenizer_class"] = "PreTrainedTokenizerFast"
    if "chat" in about:
        data["chat_template"] = about["chat"]
    return data


def main():
    for seed, make in enumerate((gpt2, llama3, qwen2, smollm, llama2, gemma, metaspace, behaviours)):
        tokenizer, about = make()
        directory = OUT / make.__name__
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(tokenizer.to_str() + "\n")
        if about:
            (directory / "tokenizer_config.json").write_text(json.dumps(config(about), indent=1) + "\n")
            write_gguf(directory / "tokenizer.gguf", tokenizer, about)
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in oracle(tokenizer, seed))
        (directory / "oracle.json").write_text("[" + lines + "]\n")


if __name__ == "__main__":
    main()
