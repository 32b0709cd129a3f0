"""llama.cpp's CUDA back end, from prebuilt libraries through its C interface: a model with all layers on the GPU, greedy tokens.

Needs build/apps/llama (./scripts/apps-prepare llama) and NVIDIA's cuBLAS 13 in Python's site-packages or on the loader's path.
"""

import ctypes
import glob
import os
import re
import site
import sys
import time

from checks import Skip, check, digest, report, run

ROOT = os.environ.get("VGPU_APPS_LLAMA") or os.path.join(os.path.dirname(__file__), "..", "..", "build", "apps", "llama")
MODEL = os.path.join(ROOT, "gemma-3-270m-q4_k_m.gguf")
PROMPT = "The theory of relativity was published in two parts. The first one, in 1905, says that"
LONG_PROMPT = " ".join([PROMPT] * 20)
TOKENS = 64
CONTEXT = 1024
POINTER = ctypes.c_void_p
BACKEND = os.environ.get("VGPU_APPS_LLAMA_BACKEND", "CUDA")


class Params(ctypes.Structure):
    """Parameter structs, passed as the library made them: by value, as the last argument, with room for any version's size."""

    _fields_ = [("bytes", ctypes.c_uint64 * 64)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", POINTER), ("embd", POINTER), ("pos", POINTER), ("n_seq_id", POINTER),
                ("seq_id", POINTER), ("logits", POINTER)]


def preload_cublas():
    folders = site.getsitepackages() + [site.getusersitepackages()] + sys.path
    for name in ("libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13"):
        for folder in folders:
            found = glob.glob(os.path.join(folder, "nvidia", "*", "lib", name))
            if found:
                ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)
                break


def function(library, name, result, *arguments):
    entry = getattr(library, name)
    entry.restype = result
    entry.argtypes = list(arguments)
    return entry


class Llama:
    def __init__(self):
        if not os.path.exists(MODEL):
            raise Skip("no model: run ./scripts/apps-prepare llama")
        preload_cublas()
        self.log = []
        sink_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, POINTER)
        self.sink = sink_type(lambda _, text, __: self.log.append(text.decode(errors="replace")))
        self.base = ctypes.CDLL(os.path.join(ROOT, "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        self.ggml = ctypes.CDLL(glob.glob(os.path.join(ROOT, "libggml.cuda.*.so"))[0], mode=ctypes.RTLD_GLOBAL)
        lib = self.lib = ctypes.CDLL(glob.glob(os.path.join(ROOT, "libllama.cuda.*.so"))[0])
        function(lib, "llama_log_set", None, sink_type, POINTER)(self.sink, None)
        load = function(self.ggml, "ggml_backend_load", POINTER, ctypes.c_char_p)
        for name in (["libggml-cuda.so"] if BACKEND == "CUDA" else []) + ["libggml-cpu-haswell.so"]:
            if not load(os.path.join(ROOT, name).encode()):
                raise RuntimeError(f"{name} did not load: {''.join(self.log[-3:])}")
        function(lib, "llama_backend_init", None)()
        parameters = function(lib, "llama_model_default_params", Params)()
        # The default number of layers on the GPU is "all".
        self.model = function(lib, "llama_model_load_from_file", POINTER, ctypes.c_char_p, Params)(MODEL.encode(), parameters)
        if not self.model:
            raise RuntimeError("the model did not load: " + "".join(self.log[-5:]))
        self.vocab = function(lib, "llama_model_get_vocab", POINTER, POINTER)(self.model)
        parameters = function(lib, "llama_context_default_params", Params)()
        parameters.bytes[0] = parameters.bytes[0] >> 32 << 32 | CONTEXT  # n_ctx is the first field, of 32 bits
        self.context = function(lib, "llama_init_from_model", POINTER, POINTER, Params)(self.model, parameters)
        if not self.context:
            raise RuntimeError("no context: " + "".join(self.log[-5:]))
        self.sampler = function(lib, "llama_sampler_init_greedy", POINTER)()
        self.sample = function(lib, "llama_sampler_sample", ctypes.c_int32, POINTER, POINTER, ctypes.c_int32)
        self.decode = function(lib, "llama_decode", ctypes.c_int32, POINTER, Batch)
        self.one = function(lib, "llama_batch_get_one", Batch, POINTER, ctypes.c_int32)
        self.memory = function(lib, "llama_get_memory", POINTER, POINTER)
        self.clear = function(lib, "llama_memory_clear", None, POINTER, ctypes.c_bool)
        self.logits = function(lib, "llama_get_logits_ith", POINTER, POINTER, ctypes.c_int32)
        self.wait = function(lib, "llama_synchronize", None, POINTER)
        self.words = function(lib, "llama_vocab_n_tokens", ctypes.c_int32, POINTER)(self.vocab)

    def tokens(self, text):
        room = (ctypes.c_int32 * 2048)()
        tokenize = function(self.lib, "llama_tokenize", ctypes.c_int32, POINTER, ctypes.c_char_p, ctypes.c_int32, POINTER,
                            ctypes.c_int32, ctypes.c_bool, ctypes.c_bool)
        count = tokenize(self.vocab, text.encode(), len(text.encode()), room, len(room), True, True)
        assert count > 0, "the prompt has no tokens"
        return list(room[:count])

    def text(self, tokens):
        room = ctypes.create_string_buffer(64 + 32 * len(tokens))
        detokenize = function(self.lib, "llama_detokenize", ctypes.c_int32, POINTER, POINTER, ctypes.c_int32, ctypes.c_char_p,
                              ctypes.c_int32, ctypes.c_bool, ctypes.c_bool)
        count = detokenize(self.vocab, (ctypes.c_int32 * len(tokens))(*tokens), len(tokens), room, len(room), False, True)
        return room.raw[:max(count, 0)].decode(errors="replace")

    def feed(self, tokens):
        room = (ctypes.c_int32 * len(tokens))(*tokens)  # the batch only points to it
        code = self.decode(self.context, self.one(room, len(tokens)))
        assert code == 0, f"llama_decode returned {code}"

    def read(self, prompt):
        """Has the model read a prompt, with nothing before it, and waits for that."""
        self.clear(self.memory(self.context), True)
        self.feed(prompt)
        self.wait(self.context)

    def write(self, count):
        """Has the model go on by so many tokens, and waits for that; the tokens."""
        result = []
        for _ in range(count):
            token = self.sample(self.sampler, self.context, -1)
            result.append(token)
            self.feed([token])
        self.wait(self.context)
        return result

    def generate(self, prompt, count):
        """The tokens, a hash of the prompt's last logits, and seconds for the prompt and for the rest."""
        start = time.monotonic()
        self.read(prompt)
        prompt_seconds = time.monotonic() - start
        logits = digest(ctypes.string_at(self.logits(self.context, -1), self.words * 4))
        start = time.monotonic()
        return self.write(count), logits, prompt_seconds, time.monotonic() - start


llama = None
first = None


@check
def load():
    global llama
    start = time.monotonic()
    llama = Llama()
    report("load_time", f"time:{time.monotonic() - start:.2f} s")
    placed = re.findall(r"offloaded (\d+/\d+) layers", "".join(llama.log))
    print("".join(llama.log), file=sys.stderr)
    return f"layers on the GPU: {placed[0] if placed else 'none'}"


@check
def greedy_tokens():
    global first
    start = time.monotonic()
    first = llama.generate(llama.tokens(PROMPT), TOKENS)
    report("first_answer_time", f"time:{time.monotonic() - start:.2f} s")
    report("text", repr(llama.text(first[0])))
    return " ".join(map(str, first[0]))


@check
def prompt_logits():
    return first[1]


@check
def same_again():
    tokens, logits, _, _ = llama.generate(llama.tokens(PROMPT), TOKENS)
    return f"tokens {tokens == first[0]}, logits {logits == first[1]}"


@check
def long_prompt():
    prompt = llama.tokens(LONG_PROMPT)
    llama.generate(prompt, 4)  # compiles and warms what a batch of this size needs
    runs = [llama.generate(prompt, TOKENS) for _ in range(3)]
    report("prompt_rate", f"time:{len(prompt) / min(run[2] for run in runs):.0f} tokens/s")
    report("decode_rate", f"time:{TOKENS / min(run[3] for run in runs):.1f} tokens/s")
    return f"{len(prompt)} " + " ".join(map(str, runs[0][0]))


if __name__ == "__main__":
    found = glob.glob(os.path.join(ROOT, "libllama.cuda.*.so"))
    if not found:
        report("application", "skip: llama.cpp is not there: run ./scripts/apps-prepare llama")
        sys.exit(77)
    run("llama.cpp", re.sub(r".*libllama\.cuda\.|\.so$", "", found[0]))
