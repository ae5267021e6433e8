"""The suite behind ``bin/bench``: programs side by side on one machine, in interleaved rounds.

A part (``benchmarks/suite/parts``, one module each, named in `cli.PARTS`) has

* ``command``: the click command, which measures and writes the results;
* ``run(settings)``: measures, and returns the document that is kept as JSON;
* ``report(document)``: the tables and charts of such a document, as a `results.Report`;

* ``goals(document)``, if it decides some of what was promised: `goals.Goal` objects.

What a part measures goes round by round through `rounds.interleaved`, so that whatever the machine does besides hits
all of them.
"""
