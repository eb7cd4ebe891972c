"""Writes tests/data/formats/records.json: JSON files in many layouts, whole and damaged by one character, and the texts
that Python's json module finds in their records (null where it finds none). Standard library only."""

import json
import pathlib
import random

OUT = pathlib.Path(__file__).parent.parent / "data" / "formats" / "records.json"

TEXTS = ["one", "a \"[quote], {", "line\nbreak\\\\", "Grüße \U0001f600 \u2028 end", "}]", ""]


def texts_of(content):
    """One value (a record, or a list of them), a record a line, or records one after the other."""
    def whole():
        value = json.loads(content)
        return value if isinstance(value, list) else [value]

    def lines():
        return [json.loads(line) for line in content.split("\n") if line.strip()]

    def one_after_the_other():
        decoder, values, at = json.JSONDecoder(), [], 0
        while content[at:].strip():
            at += len(content[at:]) - len(content[at:].lstrip())
            value, at = decoder.raw_decode(content, at)
            values.append(value)
        return values

    for read in (whole, lines, one_after_the_other):
        try:
            records = read()
        except json.JSONDecodeError:
            continue
        fine = records and all(isinstance(r, dict) and isinstance(r.get("text"), str) for r in records)
        return [r["text"] for r in records] if fine else None
    return None


def main():
    choose = random.Random(5)
    records = [{"id": i, "text": text, "more": {"text": [None, 1.5e3]}} for i, text in enumerate(TEXTS)]
    layouts = [
        "\n".join(json.dumps(r) for r in records) + "\n",
        "\r\n\r\n".join(json.dumps(r, ensure_ascii=False) for r in records),
        json.dumps(records),
        json.dumps(records, indent=1, ensure_ascii=False) + "\n",
        "\n".join(json.dumps(r, indent="\t") for r in records),
        " \n" + json.dumps(records[1], indent=2),
    ]
    cases = []
    for content in layouts:
        cases.append(content)
        for _ in range(4):
            at = choose.randrange(len(content))
            cases.append(content[:at] + choose.choice(["", "", ",", "}", "\"", "\n"]) + content[at + 1:])
    result = [{"content": content, "texts": texts_of(content)} for content in cases]
    OUT.write_text("[" + ",\n".join(json.dumps(case) for case in result) + "]\n")
    print(len(result), "cases,", sum(case["texts"] is not None for case in result), "with texts,", OUT.stat().st_size, "bytes")


main()
