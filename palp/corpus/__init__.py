"""Corpora of prompt adapters: what is in one, how it is built, how it is read."""

from palp.corpus.contract import Corpus, CorpusPrompt, CorpusSubject, Split
from palp.corpus.reader import OpenCorpus, open_corpus

__all__ = ["Corpus", "CorpusPrompt", "CorpusSubject", "OpenCorpus", "Split", "open_corpus"]
