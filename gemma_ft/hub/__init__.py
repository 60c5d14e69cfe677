"""Everything said to the Hugging Face Hub."""
