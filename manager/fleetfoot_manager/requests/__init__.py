"""What operators ask for: one module for each family of verbs, and the desk that receives and answers."""
