"""The way up: from encoded frames to acknowledged answers, over HTTP."""
