"""A fault campaign: kills, damaged files, bad disks and logs, and clocks, each followed by the same command again."""
