"""How fast the project is, each part against its peer in the same run: `python -m benchmarks.NAME`.

All but the last three have `--quick`.

    palp_step     a PALP step against the floor of its U-Net calls
    bank          K adapters in one bank against K trainings with PEFT, one after the other
    subject       learning a subject against diffusers' DreamBooth-LoRA recipe
    sampling      drawing pictures against diffusers' pipeline
    one_request   prediction, installing and a step with adapters, against the bare base and diffusers' three ways
    merging       an adapter in the weights against the same one in its slot: how many steps pay for it
    swap          installing against the number of resident adapters, beside set_adapters
    mixed_traffic many subjects at once, against the bare base and against a pipeline that switches (`palp-serve bench`)
    offered_load  latency against offered load, to twice capacity
    soak          the HTTP server for many minutes, overloaded and ill-treated
    shape         writes a pipeline of the size of SD 1.5 or SDXL with random weights, a `--base` for the others

    corpus        what a corpus holds, and its recipe in a bank against PEFT: corpus-BASE.json
    hypernet      what a hypernetwork owes to its losses and to its corpus' size: hypernet-losses-BASE.json, …-corpus-…
    predictions   predictions beside the mean and the neighbour, without drawing: hypernet-predictions-BASE.json
    served        what is served, with and without the prediction: served-BASE.json
    refining      steps of training that a prediction saves: hypernet-refining-BASE.json

All but the last six print a table and write `docs/results/speed-NAME.json`. Cases take turns, so that whatever else
slows the machine slows all of them, and ratios are of neighbours in time.
"""
