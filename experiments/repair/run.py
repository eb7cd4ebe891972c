#!/usr/bin/env python3
"""What a repair in closed form brings (docs/repair.md): a model is cut and tied in several ways, each as it is and refitted
to the original's hidden states, without training, and measured on a text that none was fitted to. Beside each the share
of the lost log-perplexity that came back.

The published repairs (ReplaceMe, arXiv 2505.02819; LinearPatch, 2505.24680; Ghosted Layers, 2605.15491) report models of
7 to 8 billion parameters, whose cuts lose less.

  experiments/repair/run.py --model models/smollm2-135m-instruct.gguf --text wiki.txt --eval-text held-out.txt
"""
import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHANGES = {
    '2 most similar': ['prune', '--drop', 2],
    '4 most similar': ['prune', '--drop', 4],
    '8 most similar': ['prune', '--drop', 8],
    '4 least influential': ['prune', '--drop', 4, '--by', 'influence'],
    '4 last but one': ['prune', '--drop', 4, '--by', 'last'],
    'tied by twos, rank 64': ['recur', '--loops', 2, '--rank', 64],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='models/smollm2-135m-instruct.gguf')
    parser.add_argument('--text', help='to choose and to fit with; without it the model\'s own samples')
    parser.add_argument('--eval-text', default='models/debian-faq.txt', help='to measure on')
    parser.add_argument('--windows', type=int, default=40, help='of 512 tokens to measure on')
    parser.add_argument('--only', help='comma-separated part of the changes: ' + ', '.join(CHANGES))
    parser.add_argument('--fathom', default='build/release/fathom')
    parser.add_argument('--out', type=Path, default=Path('experiments/repair/out'))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = {'model': options.model, 'text': options.text or 'own samples', 'eval_text': options.eval_text, 'commands': [], 'rows': []}

    def fathom(*arguments):
        command = [options.fathom, *map(str, arguments), '-q', '--json', '-']
        results['commands'].append(' '.join(command))
        print('+', *command, file=sys.stderr)
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)

    def loss(model):
        return math.log(fathom('eval', model, '--text', options.eval_text, '--context', 512, '--windows', options.windows)['perplexity'])

    whole = loss(options.model)
    results['perplexity'] = math.exp(whole)
    for name in options.only.split(',') if options.only else CHANGES:
        verb, *how = CHANGES[name]
        row = {'change': name}
        for repair in ('none', 'refit'):
            model = options.out / 'model'
            shutil.rmtree(model, ignore_errors=True)
            begin = time.monotonic()
            fathom(verb, options.model, *how, *(['--text', options.text] if options.text else []), '--repair', repair, '--out', model)
            row[repair] = {'seconds': time.monotonic() - begin, 'loss': loss(model)}
        shutil.rmtree(model)
        row['recovered'] = (row['none']['loss'] - row['refit']['loss']) / (row['none']['loss'] - whole)
        results['rows'].append(row)
        (options.out / 'repair.json').write_text(json.dumps(results, indent=1))
    table = as_markdown(results)
    (options.out / 'repair.md').write_text(table)
    print(table)


def as_markdown(results):
    lines = [f"# Repair of {results['model']}, fitted to {results['text']}, measured on {results['eval_text']}", '',
             f"Perplexity of the whole model: {results['perplexity']:.2f}.", '',
             '| change | as it is | refitted | of the lost log-perplexity came back | seconds more |', '|---|--:|--:|--:|--:|']
    for row in results['rows']:
        lines.append(f"| {row['change']} | {math.exp(row['none']['loss']):.4g} | {math.exp(row['refit']['loss']):.4g} | "
                     f"{100 * row['recovered']:.0f} % | {row['refit']['seconds'] - row['none']['seconds']:.0f} |")
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
