"""The checklist's answers to runs known by hand."""

import pandas as pd
import pytest
from judged import rows

from tandem_defense.evaluation.checklist import COLUMNS, NO, OPEN, QUESTIONS, YES, checklist

ALL = "c" * 120


def run(*parts, controls=()):
    """(answers, evidence) by question."""
    table = checklist(pd.concat(parts, ignore_index=True), controls=controls)
    assert list(table) == COLUMNS and len(table) == len(QUESTIONS)
    table = table.set_index("question")
    return table["answer"], table["evidence"]


def good():
    """An undefended classifier and a random defense, evaluated as the checklist asks."""
    half, none = "cw" * 60, "w" * 120
    three = {"dynamic": False, "samples": 20}
    return [
        rows([ALL], "clean", 0.0),
        rows([ALL], "noise", samples=0),
        rows([half], "oblivious", aware=True),
        rows([half], "query", aware=True),
        rows([none], "oblivious", 0.5, aware=True),
        rows([ALL] * 3, "clean", 0.0, "blur"),
        rows([ALL] * 3, "noise", defense="blur", samples=0),
        rows([half] * 3, "oblivious", defense="blur", **three),
        rows([half] * 3, "bpda", defense="blur", **three),
        rows([half] * 3, "query", defense="blur", **three),
        rows([none] * 3, "bpda", 0.5, "blur", **three),
    ]


def test_a_good_evaluation_has_no_no():
    answers, evidence = run(*good(), controls=["blur"])
    wrong = answers[answers == NO]
    # Draws that are equal make no spread, so that nothing is random to the signs.
    assert wrong.empty, evidence[wrong.index].to_dict()
    assert evidence["Enough images?"].startswith("120 images")


CASES = {
    "Was every defense attacked by one who knows of it?": dict(aware=False),
    "Did the attacks run to the end?": dict(incomplete=True),
    "Were there gradients, and not zeros?": dict(zero_gradient=True),
    "Do attacks on a stand-in also work on the defense itself?": dict(deceived=True),
    "Were random defenses averaged over enough of their draws?": dict(samples=2),
}


@pytest.mark.parametrize("question", CASES)
def test_a_flaw_is_a_no_that_names_the_defense(question):
    parts = good()
    for part in parts[7:]:
        for column, value in CASES[question].items():
            part[column] = value
    answers, evidence = run(*parts)
    assert answers[question] == NO
    if "averaged" not in question:
        assert "resnet50, blur" in evidence[question] and "none" not in evidence[question]


def test_accuracies_that_should_not_be():
    half = "cw" * 60
    parts = good()[:5]
    parts += [
        rows([ALL], "clean", 0.0, "jpeg"),
        rows(["w" * 60 + "c" * 60], "noise", defense="jpeg", samples=0),
        rows([half], "bpda", defense="jpeg"),
        rows(["w" * 120], "oblivious", defense="jpeg"),
        rows([ALL], "bpda", 0.5, "jpeg"),
        rows(["wccc" * 30], "query", defense="jpeg"),
    ]
    answers, evidence = run(*parts)
    assert answers["Is who knows of it at least as strong as who does not?"] == NO
    assert "50 % instead of 0 % at 0.1" in evidence[answers.index[2]]
    assert answers["Does accuracy never rise with the bound?"] == NO
    assert "bpda leaves more at 0.5" in evidence["Does accuracy never rise with the bound?"]
    assert answers["Does random noise of the same size do no harm?"] == NO
    assert answers["Simple defenses for comparison?"] == NO
    assert answers["Were random defenses averaged over enough of their draws?"] == OPEN


@pytest.mark.parametrize(("more", "answer"), [(4, YES), (5, NO)])
def test_one_image_more_at_a_larger_bound_is_chance(more, answer):
    """4/50 − 3/50 is above 1/50 in floating point."""
    parts = [rows(["c" * 50], "clean", 0.0), rows(["c" * 3 + "w" * 47], "bpda", 0.1)]
    answers, _ = run(*parts, rows(["c" * more + "w" * (50 - more)], "bpda", 0.5))
    assert answers["Does accuracy never rise with the bound?"] == answer


def test_every_defense_needs_an_attack_without_gradients():
    answers, evidence = run(*[part for i, part in enumerate(good()) if i != 3])
    question = "Was one tried who needs no gradient, and is he no stronger?"
    assert answers[question] == NO and evidence[question] == "resnet50, none: without one"


def test_a_bound_too_small_for_zero():
    parts = [rows([ALL], "clean", 0.0), rows(["cw" * 60], "oblivious", aware=True)]
    answers, evidence = run(*parts)
    assert answers["Does accuracy fall to 0 where the bound is large enough?"] == NO
    assert "50 % at 0.1" in evidence["Does accuracy fall to 0 where the bound is large enough?"]
    assert answers["Was one tried who needs no gradient, and is he no stronger?"] == NO
    assert answers["Does accuracy never rise with the bound?"] == OPEN


def test_few_images_are_too_few():
    answers, evidence = run(rows(["cccc"], "clean", 0.0), rows(["cccw"], "oblivious", aware=True))
    assert answers["Enough images?"] == NO and evidence["Enough images?"].startswith("4 images")
    assert answers["Clean accuracy beside every robust one?"] == YES


def test_attacks_without_a_bound_have_no_largest_one():
    answers, evidence = run(rows([ALL], "clean", 0.0), rows(["cw" * 60], "deepfool", 0.0, linf=0.2))
    question = "Does accuracy fall to 0 where the bound is large enough?"
    assert answers[question] == NO and "no threat has a bound" in evidence[question]
