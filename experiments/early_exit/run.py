#!/usr/bin/env python3
"""Early exits and self-speculation of one model: teach exits, then measure what they cost and bring.

The model learns its exits from itself as teacher, on its own samples, in the given minutes: by RRT's recipe (aggressive
weights and detached distillation, arXiv 2410.20672, 3.7) at four depths, or by LayerSkip's (arXiv 2404.16710: every
depth, weights growing with it, layer dropout); or it learns nothing, and they are fitted in closed form (`fathom exits`,
docs/early-exit.md). Then, each by a command of fathom that results.json names:

- perplexity of each exit alone (depth:N), and rules by threshold and policy: visits, agreement with full depth;
- speed of rules and policies for one sequence and a batch beside full depth, and the bound;
- drafts: tokens a pass and speed by text, beside the same text at full depth.

  experiments/early_exit/run.py --model models/smollm2-135m-instruct.gguf --text models/debian-faq.txt --minutes 20 --out exits
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

RECIPES = {
    'rrt': ['--exits', '9,14,19,24', '--exit-weights', 'aggressive', '--exit-alpha', '0.3'],
    'layerskip': ['--exits', 'all', '--exit-weights', 'layerskip', '--exit-scale', '0.2', '--exit-curriculum', 'rotational',
                  '--layer-dropout', '0.1'],
    'fitted': ['--at', '10,15,20,25', '--gate', '--shortlist', '4096'],
}
GATES = ['gate:0.7', 'gate:0.9']
RULES = ['margin:0.3', 'margin:0.6', 'margin:0.9', 'top1:0.5', 'top1:0.9', 'entropy:1', 'cosine:0.95', 'agree:2', 'agree:3']
POLICIES = ['exact', 'copy', 'skip']  # share is for layers that are visited again
TEXTS = {
    'prose': 'The old lighthouse keeper climbed the stairs one more time. When he reached the top,',
    'facts': 'The planets of the solar system, in their order from the sun, are',
    'code': 'def fibonacci(n):\n    """Return the first n Fibonacci numbers."""\n',
    'list': 'Monday: soup. Tuesday: rice. Wednesday: soup. Thursday: rice. Friday: soup. Saturday: rice. Sunday:',
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='models/smollm2-135m-instruct.gguf')
    parser.add_argument('--text', default='models/debian-faq.txt', help='to measure on')
    parser.add_argument('--fit-text', help='to fit exits to; without it the model\'s own samples')
    parser.add_argument('--minutes', type=float, default=20, help='of training')
    parser.add_argument('--recipe', choices=RECIPES, default='rrt')
    parser.add_argument('--dtype', default='int8', help='of speeds and drafts; quality is measured in float32')
    parser.add_argument('--windows', type=int, default=8, help='of 256 tokens to measure quality on')
    parser.add_argument('--fathom', default='build/release/fathom')
    parser.add_argument('--out', type=Path, default=Path('experiments/early_exit/out'))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    trained = options.out / options.recipe
    results = {'model': options.model, 'recipe': options.recipe, 'minutes': options.minutes, 'commands': []}

    def fathom(*arguments, figures=True):
        command = [options.fathom, *map(str, arguments)]
        results['commands'].append(' '.join(command))
        print('+', *command, file=sys.stderr)
        run = subprocess.run(command + (['--json', '-'] if figures else []), stdout=subprocess.PIPE, check=True, text=True)
        return json.loads(run.stdout) if figures else run.stdout

    fitted = options.recipe == 'fitted'
    if not trained.exists() and fitted:
        fathom('exits', options.model, *RECIPES['fitted'], *(['--text', options.fit_text] if options.fit_text else []), '--out', trained)
    elif not trained.exists():
        fathom('train', options.model, '--teacher', options.model, *RECIPES[options.recipe], '--minutes', options.minutes, '--out', trained,
               '--seed', 0, figures=False)
    quality = lambda model, *more: fathom('eval', model, '-q', '--text', options.text, '--context', 256, '--windows', options.windows, *more)
    results['original'] = quality(options.model)['perplexity']
    exits = [visit + 1 for visit, v in enumerate(json.loads((trained / 'config.json').read_text())['fathom']['plan']['visits']) if v.get('exit')]
    results['trained'] = quality(trained)['perplexity']
    results['exits'] = {depth: quality(trained, '--exit', f'depth:{depth}')['exits'] for depth in exits}
    results['rules'] = [quality(trained, '--exit', rule, '--exited-kv', policy)['exits'] for rule in RULES + (GATES if fitted else []) for policy in POLICIES]
    results['speed'] = []
    for rule in ('depth:20', 'top1:0.5', 'gate:0.7' if fitted else 'cosine:0.95'):
        for policy in POLICIES:
            for batch in (1, 32):
                run = fathom('bench', trained, '-q', '--dtype', options.dtype, '--prompt', 0, '--generate', 64, '--depth', 128, '--batch', batch,
                             '-r', 3, '--exit', rule, '--exited-kv', policy)
                results['speed'] += run['early']
    results['drafts'] = []
    for kind, prompt in TEXTS.items():
        generate = lambda *more: fathom('generate', trained, '-q', '--dtype', options.dtype, '--prompt', prompt, '--max-tokens', 192,
                                        '--ignore-eos', *more)
        for visits in [depth for depth in exits if depth in (10, 15, 20)] or exits[:1]:
            # Interleaved, and the better of two: a neighbour's minute should not decide.
            pairs = [(generate(), generate('--draft', f'{visits}:8')) for _ in range(2)]
            assert all(full['text'] == drafted['text'] for full, drafted in pairs), 'a draft changed the text'
            rate = lambda which: max(len(pair[which]['tokens']) / pair[which]['generate_seconds'] for pair in pairs)
            drafts = pairs[0][1]['drafts']
            results['drafts'].append({'text': kind, 'visits': visits, **drafts, 'full': rate(0), 'drafted_rate': rate(1), 'times': rate(1) / rate(0)})
    (options.out / f'{options.recipe}.json').write_text(json.dumps(results, indent=1))
    table = as_markdown(results)
    (options.out / f'{options.recipe}.md').write_text(table)
    print(table)


def as_markdown(results):
    lines = [f"# Exits of {results['model']}, {results['recipe']}" + ('' if results['recipe'] == 'fitted' else f", {results['minutes']:g} minutes"), '',
             f"Perplexity at full depth: {results['original']:.2f} before, {results['trained']:.2f} after.", '',
             '| leaves | visits | perplexity | as full depth | policy |', '|---|--:|--:|--:|---|']
    for row in [*results['exits'].values(), *results['rules']]:
        lines.append(f"| {row['rule']} | {row['visits']:.1f} | {row['perplexity']:.2f} | {100 * row['agreement']:.1f} % | {row['exited_kv']} |")
    lines += ['', '| leaves | policy | sequences | visits | heads | times full depth | bound |', '|---|---|--:|--:|--:|--:|--:|']
    for row in results['speed']:
        lines.append(f"| {row['exit']} | {row['exited_kv']} | {row['batch']} | {row['visits_a_token']:.1f} | {row['heads_a_token']:.2f} | "
                     f"{row['times_full_depth']:.2f} | {row['bound']:.2f} |")
    lines += ['', '| drafts by | text | accepted | tokens a pass | times full depth |', '|--:|---|--:|--:|--:|']
    for row in results['drafts']:
        passes = max(1, row['passes'])
        lines.append(f"| {row['visits']} visits | {row['text']} | {100 * row['accepted'] / max(1, row['drafted']):.0f} % | "
                     f"{192 / passes:.2f} | {row['times']:.2f} |")
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
