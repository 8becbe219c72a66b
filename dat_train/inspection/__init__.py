"""Pictures of batches, runs and what a trained model looks at."""
