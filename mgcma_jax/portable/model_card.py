"""What a reader of an exported folder should know: README.md, as model hubs
show it."""

import math
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mgcma_jax.model_config import MGCMAConfig

PAPER = 'arXiv 2412.20821'
READS = {
  'both': 'speech and what is said in it',
  'speech': 'speech',
  'text': 'what is said',
}
TEXT = """\
---
{data}
---

# {name}

MGCMA ({paper}) of mgcma_jax {version}: reads {reads},
gives the probabilities of {classes}.

## Use

```python
# pip install jax flatbuffers numpy safetensors tokenizers
from inference import load

recognise = load('.')
recognise([wave], ['Not again.'])  # mono at 16 kHz, int16 or floats in [-1, 1]
```

`model.stablehlo` is the whole model, from waveform and token ids to
probabilities, written by `jax.export` for {platforms}.
`model.safetensors` holds its {parameters:,} parameters, `inference.json` its
classes, lengths and versions. A clip may last {seconds:g} s and have {tokens}
tokens.

## Training

- corpus: {corpus}, {sessions}; sha256 of all its shards
  {sha256}
- encoders it began with: {encoders}
- modules: {modules}
- epoch {epoch} of {epochs}, seed {seed}

## Result

Protocol: {protocol}.

| WA | UA | macro F1 | utterances |
|---|---|---|---|
| {WA:.2f} | {UA:.2f} | {F1:.2f} | {utterances} |

| class | recall, % |
|---|---|
{recalls}

WA is the share of utterances that are right, UA the mean of the classes'
recalls, both in %, of one fold and one seed.

## Limits

It chooses among {count} classes and knows no other: of speech that shows none
of them it still names one. How the people of one corpus speak, in one language
and one recording situation, says little about others: expect less than the
figures above on your own recordings, and measure it. What is heard in a voice
is not what a person feels: decide nothing about people by it. The weights are
bound by the licences of the corpus and of the encoders.
"""


def model_card(
  name: str,
  facts: dict[str, Any],
  config: dict[str, Any],
  result: dict[str, Any],
  model: MGCMAConfig,
) -> str:
  """README.md with the metadata that model hubs read.

  Args:
    name: of the folder.
    facts: what inference.json holds.
    config: the run's config.json.
    result: the run's result.json.
    model: every choice.

  Returns:
    Markdown.
  """
  encoders = [
    f'{kind}: {config[f"{kind}_encoder"]}'
    for kind in ('speech', 'text')
    if model.modalities in ('both', kind)
  ]
  if config['init_from']:
    encoders = [config['init_from']]
  trained = [
    session
    for session in result['corpus']['sessions']
    if session != result['test_session']
  ]
  return TEXT.format(
    data=_metadata(name, result).to_yaml(),
    name=name,
    paper=PAPER,
    version=facts['versions']['mgcma_jax'],
    reads=READS[model.modalities],
    classes=', '.join(facts['classes']),
    platforms=', '.join(facts['platforms']),
    parameters=facts['parameters'],
    seconds=facts['samples'][-1] / facts['sample_rate'],
    tokens=facts['tokens'][-1],
    corpus=result['corpus']['name'],
    sha256=result['corpus']['sha256'],
    sessions=', '.join(trained),
    encoders=', '.join(encoders),
    modules=', '.join(model.modules) or 'none',
    epoch=result['epoch'],
    epochs=result['epochs_trained'],
    seed=result['seed'],
    protocol=result['protocol'],
    WA=100 * result['WA'],
    UA=100 * result['UA'],
    F1=100 * result['macro_F1'],
    utterances=result['utterances'],
    recalls='\n'.join(
      f'| {label} | {"-" if recall is None else f"{100 * recall:.1f}"} |'
      for label, recall in zip(result['labels'], result['recall'])
    ),
    count=len(facts['classes']),
  )


def _metadata(name: str, result: dict[str, Any]) -> ModelCardData:
  corpus = result['corpus']['name']
  measured = [
    EvalResult(
      task_type='audio-classification',
      dataset_type=corpus,
      dataset_name=f'{corpus}, {result["test_session"]}',
      metric_type=kind,
      metric_name=metric,
      metric_value=result[metric],
    )
    for metric, kind in (('WA', 'accuracy'), ('UA', 'recall'))
    if not math.isnan(result[metric])
  ]
  return ModelCardData(
    library_name='jax',
    pipeline_tag='audio-classification',
    tags=['emotion-recognition', 'speech', 'text', 'stablehlo', 'mgcma'],
    model_name=name,
    eval_results=measured,
  )
