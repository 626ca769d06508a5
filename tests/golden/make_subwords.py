"""Makes `subwords.json`: what SubwordTextEncoder of tensorflow-datasets 4.9.9 reads and writes.

    python tests/golden/make_subwords.py

needs tensorflow and tensorflow-datasets==4.9.9, in an environment of its own. The file has for each
vocabulary the text of its file, pairs of a text and its ids, and pairs of ids and their text.
"""

import json
import random
import tempfile
from pathlib import Path

from tensorflow_datasets.core.deprecated.text.subword_text_encoder import SubwordTextEncoder

OUTPUT = Path(__file__).with_name("subwords.json")
# No reserved text overlaps another one: their order is not defined there.
VOCABULARIES = {
    "words": "hello_|world|he|l|o_|or|the_|th|e|_|s_|, |'s_||l|in_",
    "odd": "a_b|\\&undsc|\\&|undsc_|é|日本_|<EOS>|x-y|b_|-|x|ß_|  |a_b_c",
    "plain": "a_|b|abab",
}
TEXTS = (
    "",
    " ",
    "_",
    "hello world",
    "hello, a_b",
    " hello  world ",
    "the world's hello\tin\nthe",
    "\\&undsc \\&undsc_a",
    "日本 日本語 é ß 🙂",
    "x-y <EOS> a<EOS> x",
)
PARTS = [*"abx _-'é日🙂", "hello", "the", "world", "undsc", "\\&undsc", "<EOS>", "x-y", "  ", ", "]


def main() -> None:
    """Writes the file."""
    draw, golden = random.Random(1), {}
    for name, words in VOCABULARIES.items():
        encoder = SubwordTextEncoder(words.split("|"))
        with tempfile.TemporaryDirectory() as folder:
            encoder.save_to_file(f"{folder}/v")
            file = Path(folder, "v.subwords").read_text(encoding="utf-8")
            encoder = SubwordTextEncoder.load_from_file(f"{folder}/v")
        texts = [*TEXTS, *("".join(draw.choices(PARTS, k=draw.randint(1, 9))) for _ in range(30))]
        last = encoder.vocab_size - 1
        rows = [[draw.randint(1, last) for _ in range(draw.randint(0, 8))] for _ in range(20)]
        golden[name] = {
            "file": file,
            "size": encoder.vocab_size,
            "encoded": [[text, encoder.encode(text)] for text in texts],
            "decoded": [[ids, encoder.decode(ids)] for ids in rows],
        }
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":"))
    OUTPUT.write_text(text.replace('],[["', '],\n[["').replace(',"', ',\n"') + "\n")


if __name__ == "__main__":
    main()
