"""JAX: jit, grad, vmap, pmap on the devices that are there, products, convolution, random numbers, loops, linear algebra."""

import os
import sys

from checks import check, digest, near, run

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0 --xla_gpu_deterministic_ops=true")  # both runs take the same algorithms
try:
    import jax
    import jax.numpy as jnp
    import jaxlib
    import numpy as np

    if jax.default_backend() != "gpu":
        raise ImportError(f"JAX's back end is {jax.default_backend()}")
except (ImportError, RuntimeError) as error:
    print(f"application\tskip: {str(error).splitlines()[0]}")
    sys.exit(77)


def numbers(*shape, dtype=np.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def bits(*arrays):
    return digest(*(np.asarray(a) for a in arrays))


@check
def device():
    return f"{jax.devices()[0].device_kind} {jax.device_count()}"


@check
def elementwise_jit():
    return bits(jax.jit(lambda x: jnp.sin(x) * 2 + jnp.exp(-x * x))(numbers(100_000)))


@check
def reductions():
    x = numbers(300, 500)
    return near([x.sum(), x.max(), x.std(), jnp.cumsum(x).sum()], 1e-4) + " " + bits(jnp.argmax(x, 1), jnp.sort(x.ravel()))


@check
def gradient():
    f = jax.jit(jax.grad(lambda w, x: jnp.tanh(x @ w).sum()))
    return near(jnp.abs(f(numbers(16, 8), numbers(32, 16, seed=1))).sum(), 1e-5)


@check
def vmapped():
    return bits(jax.jit(jax.vmap(lambda m, v: m @ v))(numbers(10, 16, 16), numbers(10, 16, seed=1)))


@check
def pmapped():
    n = jax.local_device_count()
    return bits(jax.pmap(lambda x: jax.lax.psum(x * 2, "i"), axis_name="i")(numbers(n, 100)))


@check
def matmul():
    return bits(*(jnp.matmul(numbers(128, 256).astype(t), numbers(256, 64, seed=1).astype(t)).astype(jnp.float32)
                  for t in (jnp.float32, jnp.float16, jnp.bfloat16)))


@check
def convolution():
    f = jax.jit(lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME"))
    return near(jnp.abs(f(numbers(4, 8, 32, 32), numbers(16, 8, 3, 3, seed=1))).sum(), 1e-3)


@check
def random_numbers():
    key = jax.random.key(3)
    return bits(jax.random.uniform(key, (1000,)), jax.random.normal(key, (1000,)), jax.random.permutation(key, 1000))


@check
def control_flow():
    f = jax.jit(lambda x: jax.lax.fori_loop(0, 50, lambda i, y: jnp.sin(y) + i, x))
    g = jax.jit(lambda x: jax.lax.scan(lambda c, y: (c + y, c * y), x[0], x))
    h = jax.jit(lambda x: jax.lax.while_loop(lambda y: y.sum() < 100, lambda y: y * 1.5 + 1, x))
    return bits(f(numbers(100)), *g(numbers(10, 10)), h(jnp.zeros(4)))


@check
def linear_algebra():
    a = numbers(32, 32)
    spd = a @ a.T + 32 * jnp.eye(32)
    return near([jnp.linalg.cholesky(spd).sum(), jnp.linalg.inv(spd).sum(), jnp.linalg.svd(a, compute_uv=False).sum(), jnp.linalg.eigvalsh(spd).sum(),
                 jnp.linalg.solve(spd, a).sum()], 1e-3)


@check
def fft():
    return near(jnp.abs(jnp.fft.fft(numbers(64, 100))).sum(), 1e-4)


@check
def training():
    def loss(parameters, x, y):
        for w, b in parameters[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = parameters[-1]
        return ((x @ w + b - y) ** 2).mean()

    parameters = [(numbers(16, 32), jnp.zeros(32)), (numbers(32, 4, seed=1), jnp.zeros(4))]
    step = jax.jit(lambda p, x, y: jax.tree.map(lambda a, g: a - 0.01 * g, p, jax.grad(loss)(p, x, y)))
    for seed in range(20):
        parameters = step(parameters, numbers(64, 16, seed=seed), numbers(64, 4, seed=100 + seed))
    return near([jnp.abs(leaf).sum() for leaf in jax.tree.leaves(parameters)], 1e-4)


@check
def donated_buffers():
    f = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = numbers(1 << 20)
    for _ in range(10):
        x = f(x)
    return bits(x)


@check
def host_callback():
    f = jax.jit(lambda x: jax.pure_callback(lambda a: np.asarray(a) * 2, jax.ShapeDtypeStruct((100,), jnp.float32), x) + 1)
    return bits(f(numbers(100)))


@check
def transfers():
    x = np.random.default_rng(0).standard_normal(3_000_001).astype(np.float32)
    y = np.asarray(jax.device_put(x))
    assert (x == y).all()
    return digest(y)


if __name__ == "__main__":
    run("JAX", f"{jax.__version__} jaxlib {jaxlib.__version__}")
