"""Print the table of measured results that stands in the README, from the committed results files.

python benchmarks/readme_table.py
"""

from __future__ import annotations

import json
from pathlib import Path

from main_job import SETTINGS
from results_file import interval
from selection import paired

RESULTS = Path(__file__).resolve().parent / "results"
NAMES = {
    "digits": "scikit-learn digits, 8 x 8 grey",
    "tiles": "magnetic tiles, 64 x 64 grey, 6 imbalanced classes",
    "cifar10": "CIFAR-10, 32 x 32 colour",
    "fashion": "Fashion-MNIST, 28 x 28 grey",
}


FILES = {  # what end_to_end.py calls its data sets
    "cifar10": "CIFAR-10",
    "fashion": "Fashion-MNIST",
    "tiles": "magnetic tiles, six imbalanced classes, balanced accuracy",
    "longtail": "CIFAR-10 cut to a long tail of 100:1, balanced accuracy",
}


#: in words, where the name that a processor gives itself says little
PROCESSORS = {"Intel(R) Xeon(R) Processor @ 2.00GHz": "Intel Xeon 2.0 GHz, no bfloat16"}


def proof() -> str:
    """archscout against the known networks in equal time, every data set and budget that was measured, in Markdown."""
    found = json.loads((RESULTS / "end_to_end.json").read_text(encoding="utf-8"))
    lines = [
        "| images | minutes | archscout | best known network | difference (95 % interval) | minutes used | processor |",
        "|---|---|---|---|---|---|---|",
    ]
    gains = [one for one in found["figures"] if one["name"].startswith("gain_")]
    for one in gains:
        name, minutes = one["name"].removeprefix("gain_").rsplit("_", 1)
        took = " and ".join(f"{some['minutes']['mean']:.1f}" for some in one["took"].values())
        took += "".join(f"; {arm} {'; '.join(flags)}" for arm, flags in one["flags"].items())
        took += "; of some seeds the arms ran on different processors" if one.get("unlike") else ""
        took += f"; by {one['programs']} versions of the program" if one.get("programs", 1) > 1 else ""
        lines.append(
            f"| {FILES.get(name, name)} | {minutes} | {one['archscout']:.1f} | {one['known_mean']:.1f} "
            f"({one['known_network']}) | {one['value']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f}) | {took} | "
            f"{' and '.join(PROCESSORS.get(some, some) for some in one['machines'])} |"
        )
    cores = found["machine"]["cores"]
    limits = ", ".join(f"{FILES.get(name, name).split(',')[0]} {one['latency_ms']:g}" for name, one in
                       found["conditions"].items())  # fmt: skip
    lines += [
        "",
        f"Test part, %, means of {min(one['n'] for one in gains)} seeds, on {cores} cores without a GPU. The same "
        "wall clock for both, everything counted, the same images and recipe, the same limit on latency "
        f"(ms: {limits}). The known network is the better of two that a pilot on validation images, not charged to "
        "them, picked of thirteen: ResNet-8, 14, 20, and MobileNetV2, V3, EfficientNet-Lite and ShuffleNetV2 of "
        f"several widths. Intervals: bootstrap over seeds and test images, paired. Re-run: `{found['command']}`; "
        "[the plan](docs/plans/end_to_end.md) has the data sets and times still to be measured.",
    ]
    return "\n".join(lines)


ROLES = {"finalist": "a finalist of the ranking", "largest": "the largest", "random": "a random network"}


def won(cells: dict) -> str:
    """One sentence on who won the verifications."""
    roles = [(name, cells[f"{name}/archscout"]["role"]) for name in NAMES if f"{name}/archscout" in cells]
    told = ", ".join(f"{ROLES.get(role, 'the plain baseline')} on {name}" for name, role in roles)
    return f"Who won the verification: {told}."


def table() -> str:
    """The README's table, in Markdown."""
    main_job = json.loads((RESULTS / "main_job.json").read_text(encoding="utf-8"))
    figures = {figure["name"]: figure for figure in main_job["figures"]}
    cells = main_job["cells"]
    lines = [
        "| images | limit | budget | archscout, test % (95 % interval) | plain baseline | minutes used |",
        "|---|---|---|---|---|---|",
    ]
    for name, words in NAMES.items():
        ours, plain = figures.get(f"accuracy_{name}"), figures.get(f"baseline_{name}")
        if ours is None or plain is None:
            continue
        metric = "balanced accuracy " if "balanced" in ours["unit"] else ""
        limits = ", ".join(f"{key} {value}" for key, value in SETTINGS[name]["limits"].items())
        beside = f"{plain['value']:.1f} ({plain['low']:.1f} to {plain['high']:.1f})"
        both = [cells[f"{name}/{arm}"] for arm in ("archscout", "baseline")]
        lines.append(
            f"| {words} | {limits} | {both[0]['budget']} | {metric}{ours['value']:.1f} ({ours['low']:.1f} to "
            f"{ours['high']:.1f}) | {beside} | {both[0]['minutes']:.1f} and {both[1]['minutes']:.1f} |"
        )
    overhead = json.loads((RESULTS / "overhead.json").read_text(encoding="utf-8"))
    cost = next(figure for figure in overhead["figures"] if figure["name"] == "ms_per_candidate")
    cores, processor = main_job["machine"]["cores"], main_job["machine"]["processor"]
    lines += [
        "",
        f"One seed each, on {cores} cores of an {processor} without a GPU. The intervals are over test images. The "
        f"baseline is the plain residual network that stood beside the winner, trained with the same recipe under the "
        f"same time budget. {won(cells)} Bookkeeping costs {cost['value']:.2f} ms per candidate with the log flushed "
        f"(95 % interval {cost['low']:.2f} to {cost['high']:.2f}, n = {cost['n']}). Re-run: `{main_job['command']}` "
        f"and `python benchmarks/overhead.py`. {main_job.get('note', '')}".rstrip(),
    ]
    return "\n".join(lines)


ROWS = {
    "tau": ("Kendall's tau, all cells", 3),
    "top5": ("Spearman's rho in the best 5 %", 2),
    "regret_energy": ("points lost under a limit on energy, mean of 20 limits", 2),
    "hv_latency": ("hypervolume of the front under latency limits, share of the true one", 3),
    "pick": ("accuracy of the one network chosen, %", 1),
}


def ranking_table() -> str:
    """The README's table of the ranking alone, in Markdown."""
    found = json.loads((RESULTS / "ranking.json").read_text(encoding="utf-8"))
    figures = {figure["name"]: figure for figure in found["figures"]}

    def number(value: float, places: int) -> str:
        return f"{value:.{places}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{places}f}"

    lines = ["| | aggregate, CIFAR-10 | aggregate, CIFAR-100 | params | random |", "|---|---|---|---|---|"]
    for name, (words, places) in ROWS.items():
        cells = []
        for data in ("c10", "c100"):
            one = figures[f"{name}_{data}"]
            low, high = number(one["low"], places), number(one["high"], places)
            cells.append(f"{number(one['value'], places)} ({low} to {high})")
        for other in ("params", "random"):
            both = [figures[f"{name}_{data}"]["beside"][other]["value"] for data in ("c10", "c100")]
            cells.append(", ".join(number(value, places) for value in both))
        lines.append(f"| {words} | {' | '.join(cells)} |")
    worst, macro, searches = figures["worst_pick"], figures["tau_macro"], figures["pick_c10"]["n"]
    lines += [
        "",
        f"The best 5 % ({figures['top5_c10']['n']}), limits and fronts are of the {figures['hv_latency_c10']['n']:,} "
        "connected cells. Intervals: 95 %, bootstrap over networks; of the network chosen, Student's t over "
        f"{searches} searches of 400 cells that differ in weights, images and proposals. The worst pick under any of "
        "the 40 limits loses "
        f"{worst['value']:.1f} points. On NAS-Bench-Macro, a space that no choice of ours has seen, tau is "
        f"{number(macro['value'], 2)} ({number(macro['low'], 2)} to {number(macro['high'], 2)}, {macro['n']:,} "
        f"networks; params {number(macro['beside']['params']['value'], 2)}, macs "
        f"{number(macro['beside']['macs']['value'], 2)}). Re-run: "
        f"`{found['command']}`, in pieces with `--minutes 60`.",
    ]
    return "\n".join(lines)


TRAININGS = (
    ("cifar10", "resnet8", 2, "CIFAR-10, ResNet-8, half of 10 epochs"),
    ("cifar10", "resnet8", 5, "a fifth"),
    ("cifar10", "resnet20", 2, "ResNet-20, half of 5 epochs"),
    ("cifar10", "resnet20", 5, "a fifth"),
    ("noisy10", "resnet8", 5, "10 % wrong labels, ResNet-8, a fifth of 10 epochs"),
    ("noisy20", "resnet8", 5, "20 % wrong labels, likewise"),
    ("longtail", "resnet8", 3, "long tail of 100:1, balanced accuracy, a third of 30 epochs"),
    ("tiles", "resnet8", 3, "magnetic tiles, balanced accuracy, a third of 40 epochs"),
)


def training_table() -> str:
    """What choosing the images of a training was worth: every setting that was measured, in Markdown."""
    found = json.loads((RESULTS / "selection.json").read_text(encoding="utf-8"))
    cells = found["cells"]
    lines = [
        "| images backpropagated | all images | short | random | InfoBatch | dds | dds less all | dds less random |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, net, reduction, words in TRAININGS:
        means, seeds, random = {}, {}, "random_balanced" if task in ("longtail", "tiles") else "random"
        for arm in ("full", "short", random, "infobatch", "dds"):
            start = f"{task}/{net}/{arm}/{1 if arm == 'full' else reduction}/"
            values = [cell["value"] for key, cell in cells.items() if key.startswith(start)]
            seeds[arm] = len(values)
            means[arm] = f"{sum(values) / len(values):.1f}" if values else ""
        for arm in means:
            if means[arm] and seeds[arm] != seeds["dds"]:
                means[arm] += f" (n = {seeds[arm]})"
        differences = []
        for arm, by in (("full", 1), (random, reduction)):
            pairs = paired(cells, (task, "dds", reduction), (task, arm, by), net)
            value, low, high = interval(pairs) if pairs else (0.0, 0.0, 0.0)
            differences.append(f"{value:+.2f} ({low:+.2f} to {high:+.2f}), n = {len(pairs)}" if len(pairs) > 1 else "")
        if any(differences):
            lines.append(f"| {words} | {' | '.join([*means.values(), *differences])} |")
    figures = {figure["name"]: figure for figure in found["figures"]}
    full, dds = (
        [cell["seconds"] for key, cell in cells.items() if key.startswith(f"cifar10/resnet8/{arm}/")]
        for arm in ("full/1", "dds/5")
    )
    gain = figures["gain_over_random_5x"]
    uneven = [figures[f"gain_over_random_{task}"] for task in ("longtail", "tiles")]
    natural = " and ".join(f"{one['value']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})" for one in uneven)
    ahead = interval(paired(cells, ("cifar10", "dds", 2), ("cifar10", "short", 2), "resnet20"))
    price, audited = figures["overhead_share"]["value"], figures["overhead_share_audited"]
    lines += [
        "",
        "Accuracy on the test part, %, all from the same weights; differences in points, paired by seed (95 %, "
        "Student's t), with the learning rate that the main job had before decision 012. Short is all images with a "
        "shorter schedule, random a subset drawn anew each round. A fifth of "
        f"the images takes {sum(dds) / len(dds):.0f} s of a core instead of {sum(full) / len(full):.0f}, and in a "
        "training this short every image less costs accuracy. Which ones matters little where classes are even: from "
        "the best control that "
        f"knows nothing of hardness ({gain['control']}) dds differs by {gain['value']:+.2f} ({gain['low']:+.2f} to "
        f"{gain['high']:+.2f}) points at a fifth. In one case of eight it is surely ahead, ResNet-20 on half of the "
        f"images: of random as the table says, of short by {ahead[0]:+.2f} ({ahead[1]:+.2f} to {ahead[2]:+.2f}). "
        "On the long tail and the tiles random has as many of each class as "
        f"dds; over random images of the natural mix dds gains {natural} points there, which is what the balance is "
        f"worth. Choosing costs {price:.2f} % of the seconds it saves, with the "
        f"audits of the main job {audited['value']:.1f} % ({audited['low']:.1f} to {audited['high']:.1f}, "
        f"n = {audited['n']}). Re-run: `{found['command']}`.",
    ]
    return "\n".join(lines)


SEARCHES = (
    ("full", "all images, 4 epochs"),
    ("dds", "dds, rounds of 1,000 images"),
    ("random", "1,000 images redrawn at random each round"),
    ("random_cell", "a random cell"),
    ("pdarts_full", "P-DARTS, all images, 3 epochs a stage"),
    ("pdarts_dds", "P-DARTS, dds"),
    ("pdarts_random", "P-DARTS, redrawn at random"),
)


def search_lines() -> str:
    """What choosing the images of a differentiable search was worth: a table, and three lines."""
    found = json.loads((RESULTS / "dds_search.json").read_text(encoding="utf-8"))
    figures = {figure["name"]: figure for figure in found["figures"]}

    def told(name: str, places: int = 2, sign: str = "") -> str:
        one = figures[name]
        value, low, high = (f"{one[key]:{sign}.{places}f}" for key in ("value", "low", "high"))
        return f"{value} ({low} to {high})"

    lines = ["| search | true accuracy on CIFAR-10, % | seconds of one core | searches |", "|---|---|---|---|"]
    for arm, words in SEARCHES:
        if f"true_c10_{arm}" in figures:
            row = [told(f"true_c10_{arm}"), f"{figures[f'seconds_{arm}']['value']:.0f}"]
            lines.append(f"| {words} | {' | '.join(row)} | {figures[f'true_c10_{arm}']['n']} |")
    epoch = float(figures["speedup"]["unit"].rpartition(" ")[2])
    charged = figures["pdarts_speedup"]["unit"].partition("charged to ")[2].partition(",")[0]
    stages = f" ({charged})" if charged else ""
    ends = figures["accuracy_difference"]["bootstrap"]
    lines += [
        "",
        f"First-order DARTS on NAS-Bench-201, where the accuracy of what is found is published. Ended as early as it "
        f"could have been, after {epoch:.2f} epochs, the search on all images takes {told('speedup')} times as long as "
        f"dds.\nThe cells of dds differ from those by {told('accuracy_difference', 2, '+')} points (bootstrap "
        f"{ends[0]:+.2f} to {ends[1]:+.2f}), from those of random images by {told('gain_over_redrawn', 2, '+')}: fewer "
        f"images save time, which ones hardly matters.\nP-DARTS on all images{stages} takes "
        f"{told('pdarts_speedup', 1)} times as long as with dds, at a difference of "
        f"{told('pdarts_difference', 2, '+')} points. In the main job the proxies choose among the cells between which "
        f"a search wavered at its end: on {figures['zero_shot_gain_dds']['n']} other seeds "
        f"{told('true_c10_dds_zero_shot')} % with that, {told('true_c10_dds_fresh')} % without. Re-run: "
        f"`{found['command']}`.",
    ]
    return "\n".join(lines)


def accuracy_row() -> str:
    """What searches by accuracy find in a published table, as a row of the README's table."""
    found = json.loads((RESULTS / "search_201.json").read_text(encoding="utf-8"))
    named = {figure["name"]: figure for figure in found["figures"]}
    both = [named[f"true_{data}_1000s"] for data in ("c10", "c100")]
    ours = ", ".join(f"{one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in both)
    beside = [
        f"{words} " + ", ".join(f"{one['beside'][name]['value']:.1f}" for one in both)
        for name, words in (("random", "random search"), ("evolution", "ageing evolution"))
    ]
    alone = ", ".join(f"{one['scores_alone']['value']:.2f}" for one in both)
    queries = " and ".join(f"{one['queries']:.0f}" for one in both)
    best = ", ".join(f"{one['best_cell']:.2f}" for one in both)
    return (
        f"| true accuracy found after 1,000 s, scoring counted, on NAS-Bench-201, CIFAR-10 and CIFAR-100 (which chose "
        f"the settings, with other seeds), {both[0]['n']} searches | {ours} | {'; '.join(beside)}; the first of the "
        f"ranking without a strategy {alone}, since only some {queries} queries fit; the best cell {best} |"
    )


if __name__ == "__main__":
    print(proof(), table(), ranking_table(), training_table(), search_lines(), accuracy_row(), sep="\n\n")
