"""Speech data: sound files, corpora, data plan, scoring and synthesis."""
