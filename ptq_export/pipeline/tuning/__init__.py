"""`--tune`: which layers are faster in float on this machine, found by timing engines of both."""
