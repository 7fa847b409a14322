"""A fault campaign: kills, damaged files, full disks and unwritable logs, each followed by the same command again."""
