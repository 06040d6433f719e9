"""Sample handwritten digits in the time of five Dash steps, with and without Dot, from equal seeds.

python examples/sample_digits.py [OUT.png]
"""

import sys

import morse_engine
from morse_engine import zoo
from morse_engine.evaluation.figures import picture_grid


def main(path: str = "out/digits.png") -> None:
    unet = zoo.digits_dash()
    dot = zoo.digits_dot(unet)

    # N depends on the batch size, so it is measured at the one in use.
    speed = morse_engine.compile(unet, dot, plan="-").measure(batch_size=16)
    with_dot = morse_engine.compile(unet, dot, plan=5, dot_speed=speed.dot_speed)
    alone = morse_engine.compile(unet, plan="-----")
    full = morse_engine.compile(unet, plan=50)

    columns = {
        "50 Dash steps": full(batch_size=16, seed=0),
        f"5 Dash steps\n{alone.plan}": alone(batch_size=16, seed=0),
        f"Morse, 5 LSD\n{with_dot.plan}": with_dot(batch_size=16, seed=0),
    }
    picture_grid(columns, path, title="The same seeds")
    print(with_dot.report(measure=True, batch_size=16))
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
