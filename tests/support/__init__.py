"""What tests of several folders share: writers of sounds, corpora and SavedModels, and checks."""
