//! `vgpu-backend`: see the README beside this crate and `--help`.

fn main() -> std::process::ExitCode {
    vgpu_backend::main()
}
