"""payoff: is this the right reward?

Signals, shaping, credit, advantages and losses over one trajectory structure, and trust in a reward as a measured thing.
"""

__version__ = "0.1.0"
