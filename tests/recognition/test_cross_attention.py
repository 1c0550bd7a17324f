"""From tokens to words."""

import numpy as np

from mgcma_jax.recognition.cross_attention import of_words


def test_a_word_of_two_tokens(rng):
  tokens = ['[CLS]', 'un', '##happy', '!', '[SEP]']
  speech_TL = rng.dirichlet(np.ones(5), 3)
  text_LT = rng.dirichlet(np.ones(3), 5)
  joined = of_words(tokens, speech_TL, text_LT)
  assert joined.words == ('[CLS]', 'unhappy', '!', '[SEP]')
  np.testing.assert_allclose(
    joined.speech_TW[:, 1], speech_TL[:, 1] + speech_TL[:, 2]
  )
  np.testing.assert_allclose(joined.text_WT[1], (text_LT[1] + text_LT[2]) / 2)
  np.testing.assert_allclose(joined.text_WT[2:], text_LT[3:])
  np.testing.assert_allclose(joined.speech_TW.sum(1), 1)
  np.testing.assert_allclose(joined.text_WT.sum(1), 1)


def test_a_token_that_looks_like_the_rest_of_a_word(rng):
  joined = of_words(['##s', '##t'], np.full((4, 2), 0.5), np.full((2, 4), 0.25))
  assert joined.words == ('st',)
