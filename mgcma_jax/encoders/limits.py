"""How large the encoder in somebody's config.json may be."""

MOST = 2**20  # of anything counted: shapes stay numbers that JAX can hold
MOST_LAYERS = 1000  # each is looked up in the checkpoint
