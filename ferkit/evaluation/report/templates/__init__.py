"""What a report's page is made of: its template, its style sheet, and its words in each language."""
