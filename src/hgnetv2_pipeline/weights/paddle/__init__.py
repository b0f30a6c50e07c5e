"""The formats of Paddle: ``.pdparams``, inference programs and their archives."""
