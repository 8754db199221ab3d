"""The depth and width table: rows from records, the table, its claims, and checks of both."""
