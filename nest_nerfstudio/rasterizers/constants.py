"""Constants of the rasterization rules; the values are gsplat 1.4.0's."""

TILE = 16
"""Width and height of a tile, pixels."""
ALPHA_MIN = 1.0 / 255.0
"""A Gaussian is skipped at pixels where its alpha is smaller."""
ALPHA_MAX = 0.999
"""The alpha of a Gaussian at a pixel is clamped to this."""
T_MIN = 1e-4
"""A pixel is complete before the Gaussian that would reduce its transmittance to this or less."""
EPS2D = 0.3
"""Added to the diagonal of the projected covariance, pixels²."""
