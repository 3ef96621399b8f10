"""The numbers of rotary embeddings: specs, scalings, formulas, schedules, bounds. No model is here.

A rotary embedding (RoPE) turns each pair i of dimensions by an angle that grows with the position:
``angle_i(n) = n * theta_i``, where ``theta_i = base**(-2i/d)``. Fast pairs tell neighbours apart,
slow ones tell how far away something is. Beyond the window of L tokens that training has seen, the
slow pairs reach angles that the model never met.

Every method that extends the window to L' tokens slows the pairs down. It differs from the others
in one thing: which factor lambda_i each pair is slowed by (LongRoPE, arXiv 2402.13753, Eq. 3):

    angle_i(n) = n * theta_i               for n <  n-hat, the start tokens
                 n * theta_i / lambda_i    for n >= n-hat

Beside that, cos and sin may be multiplied by an attention factor m. A `RopeSpec` holds what
training left (d, L, theta); a `RopeScaling` holds lambda, n-hat, m and L'; a `RopeSchedule` gives a
`RopeScaling` for each length.

Shapes, throughout the package:

    B  batch              T  tokens
    H  heads              D  head dimension
    d  rotary dimension   V  vocabulary

d is at most D, and i runs from 0 to d/2 - 1. Everything here needs numpy alone, and pandas where
the result is a table.
"""

from ..common.renames import former_module

# What `rope.py` of the release before held.
__getattr__ = former_module(
    __name__,
    RopeSpec="spec",
    RopeScaling="scaling",
    check_target="spec",
    compose="scaling",
    longrope_attention_factor="formulas",
)
