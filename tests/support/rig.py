"""Two steps on the fake driver, and the one-launch loop around them."""

import torch

from morse_engine.runtime import native

LAYOUTS = ["switch", "two_ifs", "nested", "unrolled"]
CONDITIONAL = LAYOUTS[:3]
FIRST = "the first that works"
# What is alive of a loop that is gone.
NOTHING = {"execs": 0, "device_allocations": 0, "host_allocations": 0, "modules": 0}


class Rig:
    """Two step graphs that write down which step they made, and the loop around them."""

    def __init__(self, fake, layout=None, capacity=1000, dot=True, **setting):
        fake.configure(**setting)
        self.fake = fake
        self.step = torch.zeros(1, dtype=torch.int32)
        self.made = ""
        self.on_step = lambda: None
        self.dash = fake.step_graph(lambda: self.make("-"), "dash")
        self.dot = fake.step_graph(lambda: self.make("."), "dot") if dot else 0
        self.driver = native.Driver(fake.library)
        args = (self.driver, self.dash, self.dot, self.step.data_ptr(), capacity)
        if layout == FIRST:
            self.composed = native.compose(*args)
            self.loop = self.composed.loop
        else:
            self.loop = native.LoopGraph(*args, layout)

    def make(self, symbol):
        self.made += symbol
        self.step += 1
        self.on_step()

    def run(self, plan):
        self.made = ""
        self.step.zero_()
        self.loop.set_plan(plan)
        self.loop.launch()
        return self.made
