import subprocess
import sys
from pathlib import Path

from data_prep.vocabulary import train_tokenizer


def test_training_a_vocabulary_is_the_same_in_every_process():
  code = (
    'import random, hashlib\n'
    'from data_prep.vocabulary import train_tokenizer\n'
    'r = random.Random(0)\n'
    "words = [''.join(r.choices('abcdefghijklmnopqrstuvwxyzäöü', k=5))\n"
    '  for _ in range(300)]\n'
    "t = train_tokenizer([' '.join(r.choices(words, k=8)) for _ in range(200)],"
    ' 200)\n'
    'print(hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest())'
  )
  found = {
    subprocess.run(
      [sys.executable, '-c', code],
      capture_output=True,
      text=True,
      check=True,
      cwd=Path(__file__).parents[2],
    ).stdout
    for _ in range(3)
  }
  assert len(found) == 1


def test_more_letters_than_the_trainer_keeps_by_itself():
  letters = [chr(0x4E00 + i) for i in range(1500)]
  tokenizer = train_tokenizer(letters, 4000)
  assert tokenizer.unk_token_id not in tokenizer(' '.join(letters))['input_ids']
