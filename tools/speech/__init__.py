"""Speech data: sound files, corpora, batch planning, scoring and synthesis."""
