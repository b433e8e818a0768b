"""What a person sees of a run: progress, metric files, summaries, plots, provenance."""
