"""ULRL: removing backdoors from neural networks with a few clean samples.

Unlearn to expose suspicious neurons, reinitialise and relearn with a cosine penalty
(Min, Pham, Sun: arXiv:2405.14781).
"""
