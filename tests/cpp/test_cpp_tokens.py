"""CLIP's tokenizer in C++: the ids of the package `tokenizers` for any text, and the tables of characters they need."""

import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from clip_run import clip_tokens, vocabulary
from cpp_tools import SOURCES, Call

from ptq_export.engines.cpp.unicode_tables import origin, tables
from ptq_export.tokens import Tokens

POINTS = [point for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000 and point != 0x0A]
NAMED = [point for point in POINTS if unicodedata.category(chr(point)) not in ("Cn", "Co")]
POOLS: Sequence[Sequence[int]] = (
    *(range(0x20, 0x7F), range(0x20, 0x7F), range(0xA0, 0x500), range(0x1E00, 0x2000), NAMED, POINTS),
    [point for point in POINTS if unicodedata.combining(chr(point))],
    [point for point in POINTS if unicodedata.decomposition(chr(point))],
    [*range(0x1100, 0x1200), *range(0xAC00, 0xB000)],
    [ord(letter) for letter in "'\u2019stremlvdSD <|>endoftxsar"],
    [ord(letter) for letter in "aàAİ\u0300\u0301\u0323\u0345 \t\xa0\x85\x1c"],
)
SPECIAL = ("<|endoftext|>", "<|startoftext|>", "<|StartOfText|>'s!!", "It's they'LL I'D", "<<|ENDOFTEXT|>>")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokens, Path]:
    folder = tmp_path_factory.mktemp("tokens")
    found = clip_tokens(folder / "made", "!")
    (folder / "tokenizer.json").write_text(found.text, encoding="utf-8")
    return found, folder / "tokenizer.json"


def drawn(count: int) -> list[str]:
    rng = random.Random(0)
    texts = []
    for _ in range(count):
        pools = rng.sample(POOLS, rng.choice((1, 1, 2, 3)))
        letters = [chr(rng.choice(rng.choice(pools))) for _ in range(rng.choice((0, 1, 2, 4, 7, 12)))]
        if rng.random() < 0.1:
            letters.insert(rng.randrange(len(letters) + 1), rng.choice(SPECIAL))
        texts.append("".join(letters))
    return texts


def require_equal(texts: list[str], tokens: tuple[Tokens, Path], call: Call, folder: Path) -> None:
    """The ids of each, and whether it was cut."""
    theirs, file = tokens
    (folder / "lines.txt").write_bytes("".join(f"{text}\n" for text in texts).encode())
    done = call("probe", "tokens", file, folder / "lines.txt")
    assert done.returncode == 0, done.stderr
    found = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    cut = {*theirs.cut(texts)}
    wanted = [[*row, int(text in cut)] for text, row in zip(texts, theirs.ids(texts).tolist(), strict=True)]
    assert found == wanted, next(it for it in zip(texts, found, wanted, strict=True) if it[1] != it[2])


def test_ids_are_those_of_tokenizers_for_texts_of_all_kinds(
    tokens: tuple[Tokens, Path], call: Call, tmp_path: Path
) -> None:
    require_equal([*drawn(3000), "", " \t ", "apple" * 10_000, "é 日本 \U0001f34e it's 12!"], tokens, call, tmp_path)


def test_files_of_before_are_read_as_tokenizers_reads_them(
    tokens: tuple[Tokens, Path], call: Call, tmp_path: Path
) -> None:
    """Merges as texts, a rule for words that does not part the ends of a prompt, and tokens that are looked for in the
    normalised text."""
    told = json.loads(tokens[0].text)
    told["model"]["merges"] = [" ".join(merge) for merge in told["model"]["merges"]]
    pattern = told["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = pattern["Regex"].removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")
    told["added_tokens"][0]["normalized"] = True
    told["added_tokens"].append({**told["added_tokens"][0], "id": len(vocabulary()), "content": "<Apple  Tree>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    texts = ["<|STARTOFTEXT|>a", "an <apple\t\ttree>s", "<apple tre", "<|ENDOFTEXT|>!!"]
    require_equal(
        [*drawn(500), *SPECIAL, *texts], (Tokens(json.dumps(told)), tmp_path / "tokenizer.json"), call, tmp_path
    )


def test_tables_of_characters_are_what_the_program_writes() -> None:
    written = (SOURCES / "src" / "text" / "unicode_tables.inc").read_text(encoding="utf-8")
    if not written.startswith(f"// {origin()}:"):
        pytest.skip(f"here is {origin()}")
    assert written == tables()


@pytest.mark.slow
def test_every_character_is_known_as_tokenizers_knows_it(
    tokens: tuple[Tokens, Path], call: Call, tmp_path: Path
) -> None:
    """Between a letter, a number and a sign, which show its class; with every mark behind a letter that has many."""
    marks = [chr(point) for point in POOLS[6]]
    alone = [
        f"a{chr(point)}a{chr(point)}1{chr(point)}!" for point in POINTS if unicodedata.category(chr(point)) != "Co"
    ]
    require_equal(
        [*alone, *(f"{base}\u0323{mark}\u0301" for base in "aU\u1100" for mark in marks)], tokens, call, tmp_path
    )
