"""Public data: what the paper used and stand-ins, each with form, size, licence, how to get it, and site-file lines.

Facts end with how certain they are: [S] stated by the paper, [C] its authors' code or the publisher's own card or
file, [2] a second-hand reading, [I] inferred. What could not be verified is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from firstsight.errors import UnknownName
from firstsight.recipe.mixture import ExternalForm


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicData:
    """A public data set."""

    name: str
    role: str
    """What the paper used it for, or what it stands in for."""
    form: ExternalForm
    layout: str
    size: str
    licence: str
    get: str
    """How to get it."""
    url: str = ""
    """The fsspec URL of its folder that `firstsight fetch` copies; empty where images have to be scraped."""
    pattern: str = ""
    """Which of the names of its files, relative to that folder, have data."""
    file: str = ""
    """The file that the site file names, where it is not the folder."""
    source: str = ""
    """The name that the paper's scales read it under; default: its own name."""
    settings: tuple[str, ...] = ()
    """Further lines of the site file; {out} is the folder of the download."""

    def site_lines(self, out: str) -> tuple[str, ...]:
        """The lines of a site file that name the source, downloaded into the folder `out`."""
        path = f"{out}/{self.file}" if self.file else out
        return (
            f'[sources."{self.source or self.name}"]',
            f'path = "{path}"',
            *(line.format(out=out) for line in self.settings),
        )

    def lines(self) -> Iterator[str]:
        """All that is known of it, and the site-file lines to paste."""
        out = "data/benchmarks" if self.form == "benchmarks" else f"data/{self.name}"
        yield f"{self.name}: {self.role}"
        yield f"form: {self.form}; {self.layout}"
        yield f"size: {self.size}; licence: {self.licence}"
        yield f"get it: {self.get}"
        if self.url:
            yield f"or: firstsight fetch {self.name} --limit 10GB --out {out}"
        yield from ("", "Paste into the site file:", "", *self.site_lines(out))


NOT_VERIFIED = "see its card"
_BENCHMARK = "its own folder next to those of other tasks"


def _hub(repository: str) -> str:
    return f"hf://datasets/{repository}"


def _vision(task: str, files: str, size: str, get: str) -> PublicData:
    role = f"paper: vision task {task}" + (" (evaluated, not in the stable score) [C]" if task == "vizwiz" else " [C]")
    return PublicData(
        name=task,
        role=role,
        form="benchmarks",
        layout=f"{files}, in {_BENCHMARK}",
        size=size,
        licence=NOT_VERIFIED,
        get=get,
        source="paper-benchmarks",
    )


def _text(task: str, note: str = "") -> PublicData:
    return PublicData(
        name=task,
        role=f"paper: text task{note} [C]",
        form="benchmarks",
        layout=f"lines of the task as lm-evaluation-harness reads them, in {_BENCHMARK}",
        size=NOT_VERIFIED,
        licence=NOT_VERIFIED,
        get="as docs/howto/text-tasks.md says; lm-evaluation-harness names its data set on the hub",
        source="paper-benchmarks",
    )


_SETS = (
    PublicData(
        name="dclm-baseline",
        role="paper: text of both phases, with StarCoder and ProofPile 2 or MathPile [2]",
        form="text",
        layout="JSON lines, zstd",
        size="4T tokens, 3B documents [C]",
        licence="CC-BY-4.0 [C]",
        get="hub: mlfoundations/dclm-baseline-1.0",
        url=_hub("mlfoundations/dclm-baseline-1.0"),
        pattern="*.jsonl.zst",
        source="dclm-mix",
    ),
    PublicData(
        name="dclm-baseline-parquet",
        role="stand-in: the same documents as tables [C]",
        form="text",
        layout="parquet",
        size="4T tokens, 3B documents [C]",
        licence="CC-BY-4.0 [C]",
        get="hub: mlfoundations/dclm-baseline-1.0-parquet",
        url=_hub("mlfoundations/dclm-baseline-1.0-parquet"),
        pattern="*.parquet",
        source="dclm-mix",
    ),
    PublicData(
        name="dclm-1b-tokens",
        role="stand-in: a uniform sample of DCLM-Baseline for a laptop [C]",
        form="text",
        layout="parquet",
        size="1B tokens, 774,229 documents, 2.6 GB [C]",
        licence=NOT_VERIFIED,
        get="hub: codelion/dclm-baseline-1B",
        url=_hub("codelion/dclm-baseline-1B"),
        pattern="data/*.parquet",
        source="dclm-mix",
    ),
    PublicData(
        name="datacomp-dr-1b",
        role="paper: captioned images [S]",
        form="captions",
        layout="tars of captions (key.syn.json) without images; images by URL from DataComp-1B",
        size="1.28B captions, 5 synthetic ones each [C]",
        licence="Apple's licence of ml-mobileclip; images: their owners' [C]",
        get="captions: hub apple/DataCompDR-1B; images: img2dataset over mlfoundations/datacomp_1b, into tars of the "
        "same names",
        settings=('captions = "{out}-captions"',),
    ),
    PublicData(
        name="datacomp-dr-12m",
        role="stand-in: a uniform sample of DataComp-DR [C]",
        form="captions",
        layout="tars of captions (key.syn.json) without images; images by URL",
        size="12.8M captions, 5 synthetic ones each [C]",
        licence="Apple's licence of ml-mobileclip; images: their owners' [C]",
        get="captions: hub apple/DataCompDR-12M; images: img2dataset over mlfoundations/DataComp-12M, into tars of the "
        "same names",
        source="datacomp-dr-1b",
        settings=('captions = "{out}-captions"',),
    ),
    PublicData(
        name="cc12m",
        role="paper: captions of Table 5 [S]; stand-in for DataComp-DR with its images in the tars",
        form="captions",
        layout="tars of key.jpg, key.txt, key.json; 2,176 shards [2]",
        size="10,968,539 images with alt-texts [2]",
        licence="Conceptual 12M's; images: their owners' [C]",
        get="hub: pixparse/cc12m-wds",
        url=_hub("pixparse/cc12m-wds"),
        pattern="*.tar",
        source="datacomp-dr-1b",
    ),
    PublicData(
        name="llava-v1.5",
        role="paper: fine-tuning, without the dialogues of text alone [C]",
        form="dialogues",
        layout="one JSON list of conversations; images of COCO, GQA, OCR-VQA, TextVQA and Visual Genome beside it",
        size="665,298 dialogues, of which 40,688 are text alone [C]",
        licence=NOT_VERIFIED,
        get="dialogues: hub liuhaotian/LLaVA-Instruct-150K, llava_v1_5_mix665k.json; images: their five publishers'",
        file="llava_v1_5_mix665k.json",
        source="llava-v1.5-multimodal",
        settings=('pictures = "{out}/pictures"',),
    ),
    PublicData(
        name="obelics",
        role="not in the paper, which has one image a sample [2]; interleaved documents",
        form="interleaved",
        layout="parquet with URLs of images, which have to be downloaded and put beside it",
        size="141,047,697 documents, 353M images, 115B text tokens; 377 GB without images [C]",
        licence="CC-BY-4.0; images: their owners' [C]",
        get="tables: hub HuggingFaceM4/OBELICS; images: img2dataset over its URLs",
        settings=('pictures = "{out}/pictures"',),
    ),
    _vision("vqav2", "questions and annotations of val2014", "214,354 questions [C]", "visualqa.org; COCO val2014"),
    _vision("gqa", "testdev_balanced_questions.json", "12,578 questions [C]", "GQA's page at Stanford; its images"),
    _vision("vizwiz", "val.json", "4,319 questions [C]", "vizwiz.org: VQA, validation; its images"),
    _vision("textvqa", "TextVQA_0.5.1_val.json", "5,000 questions [C]", "textvqa.org; Open Images train"),
    _vision("refcoco", "MiniGPT-4's list, or others that it reads", "10,834 [C]", "MiniGPT-4's list; COCO train2014"),
    _vision("ocid_ref", "val_expressions.json", "18,342 expressions [C]", "OCID-Ref's repository; OCID's images"),
    _vision("pope", "coco_pope_{adversarial,popular,random}.json", "9,000 questions [C]", "POPE's repository; COCO"),
    *(
        _text(name)
        for name in (
            *("agieval_sat_en", "arc_easy", "bigbench_conceptual_combinations_multiple_choice", "boolq", "copa"),
            *("hellaswag", "mathqa", "piqa", "pubmedqa"),
        )
    ),
    _text("bigbench_cs_algorithms_multiple_choice", " (evaluated, not in the stable score)"),
)
PUBLIC_DATA = {data.name: data for data in _SETS}


def public_data(name: str) -> PublicData:
    """The data set of that name; UnknownName with the nearest names otherwise."""
    if name not in PUBLIC_DATA:
        raise UnknownName("public data set", name, PUBLIC_DATA)
    return PUBLIC_DATA[name]


def overview() -> Iterator[str]:
    """Two lines for each data set, and what the marks after facts mean."""
    for data in PUBLIC_DATA.values():
        yield f"{data.name}: {data.form}; {data.size}"
        how = f"firstsight fetch {data.name}" if data.url else "by hand"
        yield f"    {data.role}; licence: {data.licence}; get it: {how}"
    yield from ("", "[S] is stated by the paper, [C] by its authors' code or the publisher, [2] second-hand.")
    yield "How to get one, and its lines of the site file: firstsight sources NAME"
