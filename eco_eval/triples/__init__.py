"""Preference data in H4rmony's form: triples of answers ranked within one prompt, and the pairs they give.

load(source)        a file or a Hub dataset: pairs, prompts, and a report of every row that could not be used
implode(pairs)      pairs to triples; `explode` is its inverse
translate, extend, classify     with any engine
merge, balance, counts          curation
measure, leaks      shortcuts, coverage and leaks
apply_decisions, agreement      what people decided about triples
write, push         files and Hub datasets
"""

from eco_eval.triples.pairs import explode, implode
from eco_eval.triples.reading import load
from eco_eval.triples.records import PAIRS, RANKS, Loaded, Pair, Problem, Rank, Triple
from eco_eval.triples.writing import write

__all__ = ["PAIRS", "RANKS", "Loaded", "Pair", "Problem", "Rank", "Triple", "explode", "implode", "load", "write"]
