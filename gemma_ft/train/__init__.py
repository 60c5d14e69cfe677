"""Training: building the demo model and running fine-tuning."""
