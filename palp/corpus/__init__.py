"""Corpora of prompt adapters: what is in one, how it is built, how it is read."""

from palp.corpus.contract import Corpus, CorpusPrompt, CorpusSubject, Split

__all__ = ["Corpus", "CorpusPrompt", "CorpusSubject", "Split"]
