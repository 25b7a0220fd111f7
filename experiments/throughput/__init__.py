"""What steps and operations cost beside their floors and their peers."""
