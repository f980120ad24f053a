"""What a configuration's `kind` may say, and the class that it names.

Classes are named, not imported: a job imports only the class it runs, a configuration is checked
without torch, and a change of one attack's module makes no other attack stale.
To add one: write the class, add its line here, and give it an entry in the configuration
(docs/extending.md shows all three).
"""

from importlib import import_module

DATASETS = {
    "photos": "tandem_defense.datasets.photos:Photos",
    "digits": "tandem_defense.datasets.digits:Digits",
    "mnist": "tandem_defense.datasets.mnist:MNIST",
    "nips2017": "tandem_defense.datasets.nips2017:NIPS2017",
}
CLASSIFIERS = {
    "small_cnn": "tandem_defense.classifiers.small:SmallCNN",
    "torchvision": "tandem_defense.classifiers.torchvision:Torchvision",
    "autoencoder": "tandem_defense.classifiers.autoencoder:ClassicAutoencoder",
    "funn": "tandem_defense.classifiers.autoencoder:FUNN",
}
ATTACKS = {
    "fgsm": "tandem_defense.attacks.gradient:FGSM",
    "gradient": "tandem_defense.attacks.gradient:Gradient",
    "iterative_fgsm": "tandem_defense.attacks.iterative:IterativeFGSM",
    "bim": "tandem_defense.attacks.iterative:BIM",
    "pgd": "tandem_defense.attacks.iterative:PGD",
    "mifgsm": "tandem_defense.attacks.iterative:MIFGSM",
    "deepfool_l2": "tandem_defense.attacks.deepfool:DeepFoolL2",
    "deepfool_linf": "tandem_defense.attacks.deepfool:DeepFoolLinf",
    "carlini_wagner": "tandem_defense.attacks.carlini_wagner:CarliniWagnerL2",
    "single_pixel": "tandem_defense.attacks.pixel:SinglePixel",
    "local_search": "tandem_defense.attacks.pixel:LocalSearch",
}
DEFENSES = {
    "none": "tandem_defense.defenses.base:NoDefense",
    "average_blur": "tandem_defense.defenses.controls:AverageBlur",
    "jpeg": "tandem_defense.defenses.controls:JPEG",
    "hgd": "tandem_defense.defenses.hgd:HGD",
    "comdefend": "tandem_defense.defenses.comdefend:ComDefend",
    "magnet": "tandem_defense.defenses.magnet:MagNet",
}
# Defenses that optimize for every image: hours where the others take seconds, so they run as
# jobs of their own, and leave a prediction at every read-out step.
RESTORATIONS = {
    "dip": "tandem_defense.defenses.dip:DIP",
    "tdips": "tandem_defense.defenses.dip:TandemDIP",
}


def load(target: str) -> type:
    """The class that a registry's line names, e.g. ``load(ATTACKS["bim"])``."""
    module, name = target.split(":")
    return getattr(import_module(module), name)
