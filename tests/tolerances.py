"""Every tolerance of the tests, with the error that was measured and why it may be so large."""

from __future__ import annotations

# Sampler. Measured over two million float32 distances from 0 to 21: 4.5e-7 beyond the truncation of the integer itself;
# the float32 product (x - max) * c alone may be off by half a last place of 30, which is 7e-7 as a factor.
CODE_WEIGHT_RELATIVE = 2e-6
# Integer weights against a float64 softmax: measured 1.7e-8 over the cases of tests/kernels/test_sample_codes.py.
PROBABILITY_ABSOLUTE = 2e-7
# Entries nearer than this to top-p's cut may fall on either side in float64; such cases are left out.
TOP_P_BOUNDARY = 1e-5
# Integer weights against the published sampler's float32 softmax: measured 5.1e-8 on ../shared/golden; asked: 1e-5.
GOLDEN_PROBABILITY_ABSOLUTE = 1e-6
