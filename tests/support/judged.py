"""Judged candidates, known by hand."""

import pandas as pd


def rows(answers, threat, epsilon=0.1, defense="none", seed=0, **columns) -> pd.DataFrame:
    """One row per image and draw: a text per draw, 'c' correct, 'w' wrong, 'x' refused."""
    table = []
    for draw, text in enumerate(answers):
        for i, answer in enumerate(text):
            table.append(
                {
                    "image": f"i{i}",
                    "label": 7,
                    "draw": draw,
                    "prediction": 3 if answer == "w" else 7,
                    "rejected": answer == "x",
                    "loss": float(draw),
                }
            )
    gradients = threat in ("oblivious", "bpda")
    common = dict(dataset="nips2017", seed=seed, classifier="resnet50", defense=defense)
    common |= dict(threat=threat, attack="pgd", epsilon=epsilon, linf=epsilon, l2=1.0)
    common |= dict(aware=threat in ("bpda", "query"))
    common |= dict(gradients=gradients, samples=int(threat not in ("clean", "noise")))
    common |= dict(random=len(answers) > 1, dynamic=False, deceived=False, zero_gradient=False)
    common |= dict(no_gradient=False, silent=False, incomplete=False)
    return pd.DataFrame(table).assign(**(common | columns))
