"""Reports: functions of results, for a terminal, for files and for pictures."""
