"""Train the classifier that judges pictures of `embedded:emoji`: which group of emoji does one show?

    python examples/train_emoji_groups.py --out training/emoji

It learns from real pictures, and never sees some names: those prompts, with their groups, are written beside it, and
`python -m ptq_export.benchmarks.emoji_groups RUN` has them drawn and judged.
"""

import argparse
import json
from pathlib import Path

import torch
from emoji.groups import held_out, train_classifier
from emoji.pictures import GROUPS, load_pictures
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("training/emoji"))
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.manual_seed(0)
    pictures = load_pictures(options.out)
    net, accuracy = train_classifier(options.out / "groups.pt", pictures, options.steps)
    unseen = torch.nonzero(held_out(pictures.prompts))[:, 0].tolist()
    stated = {
        "groups": json.dumps(list(GROUPS.values())),
        "prompts": json.dumps({pictures.prompts[index]: pictures.groups[index].item() for index in unseen}),
        "accuracy_on_unseen_pictures": f"{accuracy:.4f}",
    }
    tensors = {name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, options.out / "emoji_groups.safetensors", stated)
    print(f"right on {accuracy:.1%} of {len(unseen)} real pictures of names that it has not seen")


if __name__ == "__main__":
    main()
