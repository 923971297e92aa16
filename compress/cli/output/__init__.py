"""What a terminal shows: lines and tables that fit, and whose words are never obeyed."""
