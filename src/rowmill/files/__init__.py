"""Files beside the tables: where sheets take them from, and where they are kept."""
