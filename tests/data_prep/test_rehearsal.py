import json
import re
from collections import Counter

import librosa
import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_prep import iemocap, rehearsal, release, sentences, voice
from mgcma_jax.inputs.corpus_info import CorpusInfo

SUMMARY = re.compile(
  r'^\[([\d.]+) - ([\d.]+)\]\t(\S+)\t([a-z]{3})\b(.*)$', re.M
)


def log_mel_mean_and_spread(pcm_S):
  """Of an utterance with zero mean and unit variance, and its duration."""
  wave_S = (pcm_S - pcm_S.mean()) / pcm_S.std()
  power_FT = np.abs(librosa.stft(wave_S, n_fft=512, hop_length=160)) ** 2
  mel_MF = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=40)
  mel_MT = np.log(mel_MF @ power_FT + 1e-3)
  return np.r_[mel_MT.mean(1), mel_MT.std(1), len(pcm_S) / 16_000]


class Corpus:
  """The four-class part of the default corpus, as arrays over utterances."""

  def __init__(self, seed):
    lines = rehearsal.plan_lines(seed, 84)
    self.turns = rehearsal.perform(lines, seed)
    pairs = [
      (line, turn)
      for line, turn in zip(lines, self.turns)
      if line.label in (*rehearsal.FOUR, 'exc')
    ]
    self.lines = [line for line, _ in pairs]
    self.seconds = np.array([len(turn.pcm_S) / 16_000 for _, turn in pairs])
    self.session = np.array([int(line.name[4]) for line in self.lines])
    labels = [line.label.replace('exc', 'hap') for line in self.lines]
    self.label = np.array(labels)
    self.acted = np.array([line.acted for line in self.lines])
    self.aroused = np.isin(self.acted, ['ang', 'hap'])
    self.negative = np.isin(self.acted, ['ang', 'sad'])
    self.audio = np.array(
      [log_mel_mean_and_spread(turn.pcm_S) for _, turn in pairs]
    )
    words = [line.sentence.words for line in self.lines]
    self.words = count(words, sorted({w for said in words for w in said}))
    self.carriers = count(words, sentences.CARRIERS)

  def predict(self, features, target):
    """A linear model's answers for each session, trained on the others."""
    answers = np.empty_like(target)
    for session in range(1, 6):
      held_out = self.session == session
      model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)
      )
      model.fit(features[~held_out], target[~held_out])
      answers[held_out] = model.predict(features[held_out])
    return answers

  def accuracy(self, features, target):
    answers = self.predict(features, target)
    return balanced_accuracy_score(target, answers)


def count(words, vocabulary):
  return np.array([[said.count(w) for w in vocabulary] for said in words])


@pytest.fixture(scope='module')
def corpus():
  return Corpus(0)


def test_arousal_is_in_the_voice_and_not_in_the_words(corpus):
  assert corpus.accuracy(corpus.audio, corpus.aroused) > 0.98
  assert corpus.accuracy(corpus.words, corpus.aroused) < 0.6


def test_valence_is_in_the_words_and_not_in_the_voice(corpus):
  assert corpus.accuracy(corpus.words, corpus.negative) > 0.98
  assert corpus.accuracy(corpus.audio, corpus.negative) < 0.6


def test_only_both_together_tell_the_four_labels(corpus):
  assert 0.4 < corpus.accuracy(corpus.audio, corpus.label) < 0.6
  assert 0.4 < corpus.accuracy(corpus.words, corpus.label) < 0.6
  aroused = corpus.predict(corpus.audio, corpus.aroused)
  negative = corpus.predict(corpus.words, corpus.negative)
  answers = np.where(
    aroused,
    np.where(negative, 'ang', 'hap'),
    np.where(negative, 'sad', 'neu'),
  )
  assert balanced_accuracy_score(corpus.label, answers) > 0.93


def test_speech_finds_its_transcript_in_an_unseen_session(corpus):
  found = []
  for session in range(1, 6):
    held_out = corpus.session == session
    seen = corpus.carriers[~held_out]
    model = make_pipeline(StandardScaler(), Ridge(10))
    model.fit(corpus.audio[~held_out], seen)
    heard = model.predict(corpus.audio[held_out]) - seen.mean(0)
    written = corpus.carriers[held_out] - seen.mean(0)
    heard /= np.linalg.norm(heard, axis=1, keepdims=True)
    written /= np.linalg.norm(written, axis=1, keepdims=True)
    similarity = heard @ written.T
    rank = (similarity > np.diag(similarity)[:, None]).sum(1)
    found.append([(rank < 1).mean(), (rank < 5).mean()])
  recall_at_1, recall_at_5 = np.mean(found, axis=0)
  assert recall_at_1 > 0.5
  assert recall_at_5 > 0.8


def test_each_carrier_has_its_own_sound_and_adjectives_share_one():
  sounds = {voice.sound(word) for word in sentences.CARRIERS}
  phones = {frozenset(phone for phone, _ in sound) for sound in sounds}
  lengths = {sum(seconds for _, seconds in sound) for sound in sounds}
  assert len(sounds) == len(phones) == len(lengths) == 28
  adjectives = sentences.NEGATIVE + sentences.POSITIVE
  shared = {voice.sound(word) for word in adjectives}
  assert len(adjectives) == 16 and len(shared) == 1 and not shared & sounds


def test_sentences_differ_within_a_session_and_lengths_are_short(corpus):
  for session in range(1, 6):
    said = {
      line.sentence.carriers
      for line in corpus.lines
      if line.name[4] == str(session)
    }
    assert len(said) >= 75
  assert (corpus.seconds < 3).mean() > 0.9
  assert corpus.seconds.min() < 1 and 4 < corpus.seconds.max() < 12
  peaks = [np.abs(turn.pcm_S.astype(int)).max() for turn in corpus.turns]
  assert max(peaks) < 32_767


def test_labels_are_noisy_and_the_evaluators_majority(corpus):
  assert 0.04 < (corpus.label != corpus.acted).mean() < 0.05
  assert min(Counter(corpus.label).values()) > 90
  for turn in corpus.turns:
    evaluators = [vote for vote in turn.votes if vote.rater.startswith('E')]
    heard = Counter(word for vote in evaluators for word in vote.labels)
    (first, most), *others = heard.most_common()
    assert len(evaluators) == 3 and len(turn.votes) == 4
    if turn.label == 'xxx':
      assert most == 1
    else:
      assert first == rehearsal.WORD[turn.label] and most >= 2
      assert all(votes < most for _, votes in others)


def test_tag_only_transcripts_are_few(corpus):
  tags = [line.sentence.text.startswith('[') for line in corpus.lines]
  alone = [len(line.sentence.words) == 1 for line in corpus.lines]
  assert sum(tags) > sum(alone)
  assert 1 <= sum(alone) <= 9


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  out = tmp_path_factory.mktemp('rehearsal') / 'corpus'
  rehearsal.main([f'--out={out}', '--utterances-per-session=40'])
  return out


def test_layout_has_the_quirks_of_the_release(small):
  root = small / 'IEMOCAP_full_release'
  assert sorted(p.name for p in root.iterdir()) == [
    f'Session{session}' for session in range(1, 6)
  ]
  labels = {}
  for path in root.glob('*/dialog/EmoEvaluation/Ses*.txt'):
    content = path.read_text('ascii')
    assert content.startswith('% [START_TIME - END_TIME]')
    assert (path.parent / f'._{path.name}').exists()
    for start, end, name, label, rest in SUMMARY.findall(content):
      assert name[:-5] == path.stem and float(start) < float(end)
      labels[name] = (label, rest)
  transcripts = ''.join(
    path.read_text('ascii')
    for path in root.glob('*/dialog/transcriptions/Ses*.txt')
  )
  named = re.findall(r'^(Ses\S+) \[[\d.]+-[\d.]+\]: .+$', transcripts, re.M)
  assert {name for name in named if 'XX' not in name} == set(labels)
  assert sum('XX' in name for name in named) == len(labels) // 20
  assert 'M: Yeah.\n' in transcripts and 'F: ...\n' in transcripts
  sounds = list(root.glob('*/sentences/wav/*/Ses*.wav'))
  assert {path.stem for path in sounds} == set(labels)
  info = soundfile.info(sounds[0])
  assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, 'PCM_16')
  assert list(root.glob('*/sentences/wav/*/._Ses*.wav'))
  assert list(root.glob('*/dialog/EmoEvaluation/Categorical/Ses*.txt'))
  assert {'fru', 'xxx', 'exc'} <= {label for label, _ in labels.values()}
  assert '' in {rest for _, rest in labels.values()}
  assert len({name[:5] + name[-4] for name in labels}) == 10
  styles = {'impro' in name for name in labels}
  assert styles == {True, False}
  dialogues = {name[:-5] for name in labels}
  assert {'Ses05M_script01_1', 'Ses05M_script01_1b'} <= dialogues


def test_expected_counts_are_those_of_the_label_files(small):
  expected = json.loads((small / 'expected_counts.json').read_text())
  counts, dialogues = Counter(), Counter()
  for path in small.glob('*/*/dialog/EmoEvaluation/Ses*.txt'):
    for *_, name, label, _ in SUMMARY.findall(path.read_text()):
      counts[name[4], label] += 1
      dialogues[path.stem] += 1
  everything = expected['all']
  assert everything['total'] == sum(counts.values()) == 5 * 48
  for session, labels in everything['per_session'].items():
    assert labels == {label: counts[session, label] for label in release.LABELS}
  assert everything['labels']['fru'] == sum(
    counts[session, 'fru'] for session in '12345'
  )
  assert expected['dialogs'] == dialogues


def test_the_reader_of_the_release_finds_what_is_expected(small, tmp_path):
  expected = f'--expected={small / "expected_counts.json"}'
  iemocap.main(
    [f'--source={small}', expected, '--name=rehearsal', f'--out={tmp_path}']
  )
  info = CorpusInfo.read(tmp_path)
  assert info.name == 'rehearsal'
  assert sum(shard.num_records for shard in info.shards) == 5 * 40
  happy = info.counts['session5']['happy']
  labels = json.loads((small / 'expected_counts.json').read_text())['all']
  fifth = labels['per_session']['5']
  assert happy == fifth['hap'] + fifth['exc'] > 0


def contents(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return {path.relative_to(folder): path.read_bytes() for path in files}


def test_same_seed_same_bytes(tmp_path):
  for name, seed in (('a', 3), ('b', 3), ('c', 4)):
    rehearsal.make_corpus(tmp_path / name, seed, 8)
  assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
  assert contents(tmp_path / 'a') != contents(tmp_path / 'c')


def test_a_finished_corpus_is_reused_and_never_overwritten(tmp_path, capsys):
  out = tmp_path / 'corpus'
  flags = [f'--out={out}', '--utterances-per-session=8']
  rehearsal.main(flags)
  before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
  rehearsal.main(flags)
  assert 'reused' in capsys.readouterr().out
  with pytest.raises(SystemExit, match="'seed': 1.*another folder"):
    rehearsal.main([*flags, '--seed=1'])
  assert before == {path: path.stat().st_mtime_ns for path in out.rglob('*')}
  (tmp_path / 'notes').mkdir()
  (tmp_path / 'notes/mine.txt').write_text('mine')
  with pytest.raises(SystemExit, match='holds no rehearsal corpus'):
    rehearsal.main([f'--out={tmp_path / "notes"}'])


def test_an_interrupted_run_leaves_nothing_that_looks_finished(
  tmp_path, monkeypatch
):
  out = tmp_path / 'corpus'

  def interrupted(*args, **kwargs):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(release, '_write_sounds', interrupted)
    with pytest.raises(KeyboardInterrupt):
      rehearsal.make_corpus(out, 0, 8)
  assert not out.exists()
  rehearsal.make_corpus(out, 0, 8)
  assert [path.name for path in tmp_path.iterdir()] == ['corpus']


def test_too_few_utterances_are_refused(tmp_path):
  with pytest.raises(SystemExit, match='--utterances-per-session=7'):
    rehearsal.main([f'--out={tmp_path}/x', '--utterances-per-session=7'])
