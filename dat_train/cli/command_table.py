"""Table of commands: name, settings, choices, help texts and implementation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dat_train.cli import conf
from dat_train.cli.settings.bench import BenchConfig
from dat_train.cli.settings.check import CheckConfig
from dat_train.cli.settings.report import ReportConfig
from dat_train.cli.settings.train import TrainConfig
from dat_train.cli.settings.trained_model import AverageConfig, EvalConfig, ExportConfig, PredictConfig, VisualizeConfig


@dataclass(frozen=True)
class Command:
    """A command dat-NAME.

    Attributes:
        name: name of the command after "dat-", and of its defaults, conf/NAME.yaml.
        module: module in commands/ that implements it as `run(config, command_line)`; imported only for the call,
            because it imports torch.
        schema: dataclass of its settings.
        groups: configuration groups (folders of conf/) of the command.
        usage: short usage with examples.
        notes: further text of --help, printed before the settings.
        positional: name of a setting, a list, that takes the arguments without NAME=, as in dat-report runs/A runs/B.
        left_out: unsupported choices of the groups, as GROUP=NAME, and the alternative that the error message names.
    """

    name: str
    module: str
    schema: type
    groups: tuple[str, ...]
    usage: str
    notes: str
    positional: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict, hash=False)

    def choices(self, group: str) -> list[str]:
        """Names of a configuration group that the command has."""
        return [name for name in conf.choices(group) if f"{group}={name}" not in self.left_out]


TRAIN = Command(
    name="train",
    module="train",
    schema=TrainConfig,
    groups=("task", "model", "data", "augment", "experiment", "ablation"),
    usage="""\
dat-train model=MODEL data=DATA [SETTING=VALUE ...]     train a Deformable Attention Transformer

  dat-train experiment=digits                                            a demo: minutes on two CPU cores
  dat-train model=dat_s data=imagenet data.root=/data/imagenet           the paper's recipe
  torchrun --nproc_per_node=8 -m dat_train.commands.train model=dat_s data=imagenet data.root=/data/imagenet
  dat-train model=dat_t data=folder data.root=/my/photos epochs=50       your own images and classes
  dat-train ... show_batch=true                                          a picture of one augmented batch, no training

The same command again continues a stopped run.""",
    notes="""\
Results: RUNS_DIR/NAME/ with config.yaml, metrics.jsonl, summary.json, curves.png, checkpoints/last.pt and best.pt.
--cfg job            print the composed settings, without running
--multirun           run every combination of several values, as in optim.lr=1e-3,2e-3 seed=0,1
--config-dir DIR     also search a folder of yours for .yaml files of models, data, experiments, ...

Settings marked * may change when a run is continued. A model's recipe (conf/recipe/) may have other values than
the defaults below. Settings that are texts take all characters as typed; ~ is expanded in paths.""",
)

EVALUATE = Command(
    name="eval",
    module="evaluate",
    schema=EvalConfig,
    groups=("model", "data"),
    usage="""\
dat-eval ckpt=PATH [SETTING=VALUE ...]     evaluate a checkpoint on a validation set

  dat-eval ckpt=runs/dat_s-imagenet/checkpoints/best.pt                  as it was trained
  dat-eval ckpt=... img_size=384                                         at another resolution
  dat-eval ckpt=... img_sizes=[192,224,256]                              at several, with a table
  dat-eval ckpt=... data=imagenet_a data.root=/data/imagenet-a           another test set, the classes it has
  dat-eval model=dat_t data=imagenet data.root=/data/imagenet                   published weights""",
    notes="""\
Settings that are not given are those of the checkpoint's training. eval.resize: "squash" resizes to a square and
changes the aspect ratio, as the DAT authors do for the published numbers; "short_side" keeps it, as timm and
torchvision do.""",
)

PREDICT = Command(
    name="predict",
    module="predict",
    schema=PredictConfig,
    groups=("model",),
    usage="""\
dat-predict ckpt=PATH IMAGE ... [SETTING=VALUE ...]     the most probable classes of images

  dat-predict ckpt=runs/digits/checkpoints/best.pt photo.jpg more/photos      files and folders
  dat-predict ckpt=... 'holiday/**/*.jpg' top=1                               a pattern
  find . -name '*.png' | dat-predict ckpt=... - format=csv output=found.csv   a list
  dat-predict model=dat_t photo.jpg                                           published weights""",
    notes="""\
ckpt is a checkpoint of dat-train, a folder written by dat-export, or released weights with model=NAME. Images keep
the order of the arguments. An image that cannot be read is reported and left out; the exit code is then 1.
format=csv has a row for each image: path, class and probability of the first, of the second, ...; format=jsonl an
object: {"path": ..., "top": [{"class": ..., "index": ..., "probability": ...}, ...]}. A model of task=multilabel names
every class from `threshold` on: in format=csv with labels and probabilities separated by ";", in format=jsonl in a list
"labels" instead of "top".""",
    positional="images",
)

EXPORT = Command(
    name="export",
    module="export",
    schema=ExportConfig,
    groups=("model", "data"),
    usage="""\
dat-export ckpt=PATH format=FORMAT [SETTING=VALUE ...]     write a trained model in another format

  dat-export ckpt=runs/digits/checkpoints/best.pt                             a folder for timm and the Hub
  dat-export ckpt=runs/digits/checkpoints/best.pt format=onnx int8=true       ONNX, also in 8 bits
  dat-export ckpt=runs/digits/checkpoints/best.pt format=torch_export         a .pt2 file
  dat-export model=dat_t format=onnx                                          published weights
  dat-export ckpt=runs/digit_scenes_segmentation/checkpoints/best.pt format=onnx     images of any height and width""",
    notes="""\
safetensors    model.safetensors, config.json with preprocessing and class names, README.md, the model card:
               timm.create_model("local-dir:FOLDER", pretrained=True) after import dat_train.models
onnx           model.onnx for any batch, preprocessing.json, with int8=true model.int8.onnx; needs onnx, onnxruntime
               and onnxscript (the extra "export")
torch_export   model.pt2 for any batch, preprocessing.json

Segmentation models and RetinaNet take images of any height and width in onnx and torch_export; preprocessing.json then
has the steps after the model, and the colors of the classes. Detectors with masks cannot be exported.
Every export is loaded again and compared with the checkpoint: equal logits for safetensors, within 1e-4 for the others.
validate=true also compares accuracies on the validation set: that of the training, or data.root=FOLDER.""",
)

AVERAGE = Command(
    name="average",
    module="average",
    schema=AverageConfig,
    groups=("model", "data"),
    usage="""\
dat-average CKPT CKPT ... [SETTING=VALUE ...]     average the weights of several checkpoints

  dat-average runs/tuned-*/checkpoints/best.pt output=soup.pt                  their mean
  dat-average runs/tuned-*/checkpoints/best.pt kind=greedy output=soup.pt      those that raise the accuracy""",
    notes="""\
For models fine-tuned from the same weights (Wortsman et al., ICML 2022), or checkpoints of one run;
models with different random initializations have no useful average. The result is a checkpoint for dat-eval and init=.
kind=greedy selects by the score of the task (top-1, mIoU, box AP) on the validation data of the first checkpoint, or
data=NAME; test it on other images.""",
    positional="ckpt",
)

VISUALIZE = Command(
    name="visualize",
    module="visualize",
    schema=VisualizeConfig,
    groups=("model",),
    usage="""\
dat-visualize ckpt=PATH image=PATH [SETTING=VALUE ...]     draw sampling points and attention

  dat-visualize ckpt=runs/digits/checkpoints/best.pt image=data/digits/val/8/0008.png
  dat-visualize ckpt=... image=my/photos                                 every image of a folder
  dat-visualize ckpt=... image=cat.jpg query=[112,80]                    the attention of one query
  dat-visualize model=dat_t image=cat.jpg                                published weights""",
    notes="""\
For each image, in OUTPUT/IMAGE/: attention.html, an interactive page (mouse, keyboard, touch screen);
points.png and points_stageS_blockB.png (the deformed points), attention.png, heat.png, traced.png, predictions.png.
All of them show the model's input: the image after eval.resize and the crop.""",
)

REPORT = Command(
    name="report",
    module="report",
    schema=ReportConfig,
    groups=(),
    usage="""\
dat-report RUN ... [output=PAGE.html]     one page about one run or several runs

  dat-report runs/digits
  dat-report runs/a runs/b output=a-and-b.html
  dat-report runs/sweep-*""",
    notes="""\
The page needs no network. It has results, curves in common charts, settings with differences marked, after dat-eval
also accuracy of each class, confusions and the most confident mistakes, and the faults of each run.""",
    positional="runs",
)

BENCH = Command(
    name="bench",
    module="bench",
    schema=BenchConfig,
    groups=("model", "data", "augment"),
    usage="""\
dat-bench [models|segmentation|detection|attention|data] [SETTING=VALUE ...]     measure speed and memory

  dat-bench model=dat_t baseline=swin_tiny_patch4_window7_224            compared with timm's Swin-T
  dat-bench others=[dat_small,resnet50] modes=[inference] chart=speed.png
  dat-bench model=dat_t dtype=bf16 compile=[false,true] json=speed.json
  dat-bench segmentation model=datpp_t img_size=512 width=1024 batch_size=2
  dat-bench attention sizes=[7,14]                                       the attention module alone
  dat-bench data data=folder data.root=/my/photos workers=[1,2,4]        the input pipeline, next to timm's loader""",
    notes="""\
All models are measured in one process, in turns. Numbers are medians; `spread` is the interquartile range divided by
the median; ratios are medians over rounds. Warm-up calls are not reported. Peak memory: on CUDA that of the allocator;
elsewhere the largest sum of living tensors, counted operator by operator.""",
    positional="what",
    left_out={"augment=recipe": "recipes are those of dat-train; name the augmentation"},
)

CHECK = Command(
    name="check",
    module="check",
    schema=CheckConfig,
    groups=("task", "data"),
    usage="""\
dat-check data=DATA data.root=PATH [SETTING=VALUE ...]     read every image once before a long run

  dat-check data=imagenet data.root=/data/imagenet
  dat-check data.root=/my/photos output=photos.json
  dat-check data=coco data.root=/data/coco                                    images, boxes and masks""",
    notes="""\
Reports images that cannot be read, image sizes, images of each class, and images with the same content in two splits;
of ImageNet-1K also what a whole copy has; of segmentation and detection also masks and objects that do not fit their
image, and classes that do not occur. Everything is in the report, a JSON file. Exit code 1: problems found.""",
    left_out={
        f"task={name}": "data=... is enough, as in data=masks or data=coco" for name in ("detection", "segmentation")
    },
)

COMMANDS = {
    command.name: command for command in (TRAIN, EVALUATE, PREDICT, EXPORT, AVERAGE, VISUALIZE, REPORT, BENCH, CHECK)
}
