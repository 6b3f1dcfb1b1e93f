"""How fast the project is, each part against its peer in the same run: `python -m benchmarks.NAME [--quick]`.

    palp_step     a PALP step against the floor of its U-Net calls
    bank          K adapters in one bank against K trainings with PEFT, one after the other
    subject       learning a subject against diffusers' DreamBooth-LoRA recipe
    sampling      drawing pictures against diffusers' pipeline
    sd15_shape    a pipeline of Stable Diffusion 1.5's size with random weights

Each prints a table and writes `docs/results/speed-NAME.json`. Cases take turns, so that whatever else slows the machine
slows all of them, and ratios are of neighbours in time.
"""
