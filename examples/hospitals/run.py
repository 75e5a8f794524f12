"""After: the same model over five hospitals, each a process of its own, none of which hands over a patient.

python examples/hospitals/run.py
"""

from tertium import notebook

OWNERS = {f"hospital{number}": {"hospital": number} for number in range(5)}

if __name__ == "__main__":
    with notebook.launch("hospitals:Hospitals", OWNERS, owner={"test": True}, learning_rate=0.5) as federation:
        model = federation.model
        for _ in range(30):
            copies = [model.send(name).train(epochs=1, batch_size=32).move() for name in OWNERS]
            model = notebook.mean(*copies).get()
            print(f"round {model.round:2}  accuracy {model.score.accuracy:.1%} on the held-out patients")
    print(federation.audit())
