"""Other tools' spellings: those that mean the same here, and those that need a word of explanation."""

ALIASES = {  # the name in --help: what it answers to besides
    "--model": ("--target",),
    "--draft": ("--draft-model", "-md", "-dm"),
    "--budget": ("--draft-max", "--num-draft-tokens", "--spec-draft-n-max", "-ndt"),
    "--ctx-size": ("--ctx", "--num-ctx", "--context-length", "--max-kv-size"),
    "--vram": ("--gpu",),
    "--kv": ("--kv-bits",),
    "--temperature": ("--temp", "-temp"),
    "--top-k": ("-topk",),
    "--top-p": ("-topp",),
    "--min-p": ("-minp",),
    "--repeat-penalty": ("--repetition-penalty", "-repp"),
    "--max-tokens": ("--n-predict", "--num-predict", "--predict", "-maxr"),
    "--system": ("--system-prompt", "-sys", "-sp"),
    "--prompt": ("-prompt",),
    "--cache": ("--prompt-cache", "--prompt-cache-file"),
}

PLACES = "specexec places layers itself; --vram SIZE bounds what it takes of the GPU, --vram 0 keeps off it"
CORES = "specexec uses every core; OMP_NUM_THREADS=N sets another number"
READS = "specexec maps no file: it plans what stays in memory and streams the rest; --ram SIZE bounds it"
STAYS = "there is no server that keeps a model loaded; in specexec chat it stays until you leave"
FETCH = "specexec list shows what is here, and -m NAME takes it"
LOOKS = "--draft lookup, which --draft auto has in it"
FINDS = "--budget auto, the default, which finds how much is worth drafting"
SECRET = "HF_TOKEN in the environment, or the login of huggingface_hub: a token is never an option"
NEEDED = "the same command without it: pull fetches what is needed and nothing else"

FOREIGN = {  # what does their work here
    **dict.fromkeys(("--n-gpu-layers", "-ngl", "--gpu-layers", "--num-gpu", "--fit", "-ngld", "-ts", "-mg", "-gs"), PLACES),
    **dict.fromkeys(("--threads", "-t"), CORES),
    **dict.fromkeys(("--mlock", "--no-mmap", "--mmap", "-lm"), READS),
    **dict.fromkeys(("--ttl", "--keepalive"), STAYS),
    **dict.fromkeys(("-hf", "--hf-repo", "-hfd", "-hft"), FETCH),
    **dict.fromkeys(("--spec-type", "-ngram"), LOOKS),
    **dict.fromkeys(("-c", "-cs"), "--ctx-size N"),
    **dict.fromkeys(("-sysf", "--system-prompt-file"), "--system @FILE"),
    **dict.fromkeys(("-i", "-cnv", "--interactive", "--conversation", "-mli"), "specexec chat"),
    **dict.fromkeys(("-st", "--single-turn", "-no-cnv"), "specexec run, which answers once"),
    **dict.fromkeys(("-lv", "--log-verbosity"), "-v"),
    **dict.fromkeys(("-co", "--simple-io"), "--color never"),
    **dict.fromkeys(("-fa", "--flash-attn", "-b", "--batch-size", "-ub", "--ubatch-size"), "the same command without it"),
    **dict.fromkeys(("-ctk", "-ctv", "--cache-type-k", "--cache-type-v", "-cq"), "--kv int8, for keys and values alike"),
    **dict.fromkeys(("-ctkd", "-ctvd", "--cache-type-k-draft", "--cache-type-v-draft"), "--draft-kv window, retrieval or int4"),
    **dict.fromkeys(("-dds", "--draft-min", "--draft-p-min", "--spec-draft-n-min", "--spec-draft-p-min"), FINDS),
    **dict.fromkeys(("-tps", "--show-timings"), "--stats"),
    **dict.fromkeys(("-dbg", "--log-verbose"), "-v"),
    **dict.fromkeys(("-a", "--attachment"), "-f PATH, for text: these models read nothing else"),
    **dict.fromkeys(("--key", "--token", "--hf-token"), SECRET),
    **dict.fromkeys(("--include", "--exclude", "--max-workers"), NEEDED),
    "--local-dir": "SPECEXEC_HOME=DIR in the environment, or --name NAME",
    "--estimate-only": "specexec plan MODEL",
    "--format": "--json",
    "--offline": "the same command without it: pull, plan and verify --repair alone ever ask the network",
}
