"""What the jobs of the pipeline do, one module per stage of the data's way."""
