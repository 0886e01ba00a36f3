"""What a run leaves behind: record, leaderboard row, picture, and the table on the screen."""
