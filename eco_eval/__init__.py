"""eco-eval: how do language models speak about the living world?

Read `pipeline.py` first: it is the whole flow.
"""

__version__ = "0.1.0"
