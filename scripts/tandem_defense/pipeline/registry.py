"""What a configuration's `kind` may say, and the class that it names.

Classes are named, not imported: a job imports only the class it runs, a configuration is checked
without PyTorch, and a change of one attack's module leaves the results of the others alone.
To ship one, write the class and add its line here. A class of your own needs no line: its `kind` is
``file.py:Class`` or ``package.module:Class`` (docs/extending.md).
"""

DATASETS = {
    "photos": "tandem_defense.datasets.photos:Photos",
    "digits": "tandem_defense.datasets.digits:Digits",
    "mnist": "tandem_defense.datasets.mnist:MNIST",
    "nips2017": "tandem_defense.datasets.nips2017:NIPS2017",
    "folder": "tandem_defense.datasets.folder:Folder",
}
CLASSIFIERS = {
    "small_cnn": "tandem_defense.classifiers.small:SmallCNN",
    "torchvision": "tandem_defense.classifiers.torchvision:Torchvision",
    "autoencoder": "tandem_defense.classifiers.autoencoder:ClassicAutoencoder",
    "funn": "tandem_defense.classifiers.autoencoder:FUNN",
    "supervised": "tandem_defense.classifiers.supervised:Supervised",
    "timm": "tandem_defense.classifiers.timm:Timm",
    "own": "tandem_defense.classifiers.own:Own",
}
ATTACKS = {
    "fgsm": "tandem_defense.attacks.gradient:FGSM",
    "gradient": "tandem_defense.attacks.gradient:Gradient",
    "iterative_fgsm": "tandem_defense.attacks.iterative:IterativeFGSM",
    "bim": "tandem_defense.attacks.iterative:BIM",
    "pgd": "tandem_defense.attacks.iterative:PGD",
    "pgd_l2": "tandem_defense.attacks.pgd_l2:PGDL2",
    "mifgsm": "tandem_defense.attacks.iterative:MIFGSM",
    "deepfool_l2": "tandem_defense.attacks.deepfool:DeepFoolL2",
    "deepfool_linf": "tandem_defense.attacks.deepfool:DeepFoolLinf",
    "carlini_wagner": "tandem_defense.attacks.carlini_wagner:CarliniWagnerL2",
    "single_pixel": "tandem_defense.attacks.pixel:SinglePixel",
    "local_search": "tandem_defense.attacks.pixel:LocalSearch",
    "autoattack": "tandem_defense.attacks.autoattack:AutoAttack",
    "noise": "tandem_defense.attacks.black_box:Noise",
    "square": "tandem_defense.attacks.black_box:Square",
}
THREATS = {
    "oblivious": "tandem_defense.threats.blind:Oblivious",
    "noise": "tandem_defense.threats.blind:Noise",
    "exact": "tandem_defense.threats.through:Exact",
    "bpda": "tandem_defense.threats.through:BPDA",
    "low_frequency": "tandem_defense.threats.through:LowFrequency",
    "query": "tandem_defense.threats.through:Query",
    "surrogate": "tandem_defense.threats.surrogate:Surrogate",
}
DEFENSES = {
    "none": "tandem_defense.defenses.base:NoDefense",
    "average_blur": "tandem_defense.defenses.controls:AverageBlur",
    "jpeg": "tandem_defense.defenses.controls:JPEG",
    "random_resize_pad": "tandem_defense.defenses.related:RandomResizePad",
    "tensor_shield": "tandem_defense.defenses.related:TensorShield",
    "total_variation": "tandem_defense.defenses.related:TotalVariation",
    "hgd": "tandem_defense.defenses.hgd:HGD",
    "comdefend": "tandem_defense.defenses.comdefend:ComDefend",
    "magnet": "tandem_defense.defenses.magnet:MagNet",
    "dip": "tandem_defense.defenses.dip:DIP",
    "tdips": "tandem_defense.defenses.dip:TandemDIP",
    "dipdefend": "tandem_defense.defenses.dipdefend:DIPDefend",
}
TABLES = {
    "accuracy": "tandem_defense.artifacts.accuracy:Accuracy",
    "comparisons": "tandem_defense.artifacts.comparisons:Comparisons",
    "success": "tandem_defense.artifacts.success:Success",
    "claims": "tandem_defense.artifacts.claims:Claims",
    "funn_claims": "tandem_defense.artifacts.funn_claims:FUNNClaims",
    "robustness": "tandem_defense.artifacts.robustness:Robustness",
    "checklist": "tandem_defense.artifacts.checklist:Checklist",
}
FIGURES = {
    "curve": "tandem_defense.artifacts.curve:Curve",
    "restored": "tandem_defense.artifacts.restored:Restored",
    "activation": "tandem_defense.artifacts.activation:Activation",
    "perturbation": "tandem_defense.artifacts.perturbation:Perturbation",
    "security": "tandem_defense.artifacts.security:Security",
}
SECTIONS = {
    "dataset": DATASETS,
    "classifiers": CLASSIFIERS,
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "threats": THREATS,
    "tables": TABLES,
    "figures": FIGURES,
}


def target(section: str, kind: str) -> str:
    """The class, "module:Class" or "file.py:Class", that `kind` means in a section.

    Raises KeyError for a name that is not registered.
    """
    return kind if ":" in kind else SECTIONS[section][kind]
