"""The demo: the whole chain on real input, beside ordinary JPEG. :func:`edgejpeg.demo.run.run_demo` runs it."""
