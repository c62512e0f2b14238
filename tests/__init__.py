import atexit
import gc

# At the end of a process Python would look for garbage in all that was imported, for a second or two.
atexit.register(gc.freeze)
