"""The program `infer` of every speech family: sounds in, texts and a report out."""
