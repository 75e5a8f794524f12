"""Three data owners with different digits, and a model that is bfloat16 from the first round to the last.

python examples/half_precision/run.py
"""

from tertium import notebook

OWNERS = {"alice": {"digits": [0, 1, 2, 3]}, "bob": {"digits": [4, 5, 6]}, "charlie": {"digits": [7, 8, 9]}}

if __name__ == "__main__":
    with notebook.launch(
        "half_precision:HalfPrecision",
        OWNERS,
        owner={"test": True},
        learning_rate=0.1,
        value_range=32.0,  # BatchNorm counts its batches, ten a round
    ) as federation:
        model = federation.model
        for _ in range(20):
            copies = [model.send(name).train(batches=10, batch_size=32).move() for name in OWNERS]
            model = notebook.mean(*copies).get()
            print(f"round {model.round:2}  accuracy {model.score.accuracy:.1%} on the held-out images")
    print({name: str(value.dtype) for name, value in model.module.state_dict().items()})
