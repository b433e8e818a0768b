"""What a trained model is worth: from a checkpoint's best parameters."""
