//! ollama: its folders, and the environment in which its runner looks for libraries. Discovery throws its children's output away,
//! so that what is wrong here shows nowhere else.

use super::library::missing;
use super::probe::Kind;
use super::probe::answer::Answer;
use super::report::Report;
use super::subject::{Environment, Facts, Subject};
use crate::system::elf::{self, Library};
use crate::system::library::{Owner, is_driver_name, is_ours_in};
use crate::system::loader::Loader;
use crate::system::{CUDA, NVML};
use std::path::{Path, PathBuf};

/// Where packages put its libraries.
const FOLDERS: [&str; 2] = ["/usr/local/lib/ollama", "/usr/lib/ollama"];
const PROGRAM: &str = "ollama";
const BACKEND: &str = "libggml-cuda.so";
/// ollama up to 0.24 looks there for NVML before it asks the loader.
const WSL_NVML: &str = "/usr/lib/wsl/lib/libnvidia-ml.so.1";
const UNITS: [&str; 3] = [
    "/usr/lib/systemd/system/ollama.service",
    "/lib/systemd/system/ollama.service",
    "/etc/systemd/system/ollama.service",
];
const DROP_INS: &str = "/etc/systemd/system/ollama.service.d";

pub fn check(subject: &Subject, _: &mut Facts, report: &mut Report) {
    let folders = folders(subject);
    if folders.is_empty() {
        return report.note("ollama is not installed");
    }
    let service = service(subject);
    for (folder, backends) in &folders {
        bundled(subject, folder, report);
        if backends.is_empty() {
            report.error(
                "ollama-no-cuda",
                format!(
                    "{} has no folder cuda_v12 or cuda_v13: ollama does not look for a GPU",
                    folder.display()
                ),
                "install ollama's archive whole (ollama-linux-amd64), not only the program",
            );
        }
        for backend in backends {
            bundled(subject, backend, report);
            runner(subject, &service, folder, backend, report);
        }
    }
    chosen(subject, &service, &folders, report);
    wsl(subject, report);
}

/// ollama's library folders and the CUDA backends in each.
pub fn folders(subject: &Subject) -> Vec<(PathBuf, Vec<PathBuf>)> {
    let path = subject.environment.get("PATH").map_or("/usr/local/bin:/usr/bin", String::as_str);
    let programs = path.split(':').map(|folder| Path::new(folder).join(PROGRAM));
    let followed =
        subject.program.iter().filter(|program| program.file_name().is_some_and(|name| name == PROGRAM));
    let programs = programs.chain(followed.cloned());
    let beside = programs.filter(|program| subject.root.has(program)).filter_map(|program| {
        let real = subject.root.real(program);
        Some(real.parent()?.parent()?.join("lib/ollama"))
    });
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in FOLDERS.iter().map(PathBuf::from).chain(beside) {
        let folder = subject.root.real(folder);
        if subject.root.has(&folder) && !found.contains(&folder) {
            found.push(folder);
        }
    }
    let backends = |folder: &Path| {
        let names = subject.root.names(folder).into_iter().filter(|name| name.starts_with("cuda_v"));
        names.map(|name| folder.join(name)).collect()
    };
    found.into_iter().map(|folder| (folder.clone(), backends(&folder))).collect()
}

/// A libcuda or NVML beside the backend comes before the guest's.
fn bundled(subject: &Subject, folder: &Path, report: &mut Report) {
    for name in subject.root.names(folder).into_iter().filter(|name| is_driver_name(name)) {
        let path = folder.join(&name);
        let shown = path.display();
        let is_copy = subject.root.real(&path).parent() == Some(folder);
        let remedy = format!("rm {shown}: the loader then finds the installed one");
        match Owner::in_system(&subject.root, &path) {
            Ok(Owner::Ours) if is_copy => report.warning(
                "ollama-copy",
                format!("{shown} is a copy of vgpu's library: the next release does not replace it"),
                remedy,
            ),
            Ok(Owner::Ours) => {}
            Ok(owner @ Owner::Other(_)) => {
                report.error(
                    "ollama-stale",
                    format!("{shown} is {owner}, and comes before the installed one"),
                    remedy,
                );
            }
            Ok(owner) => {
                report.error(
                    "ollama-foreign",
                    format!("{shown} is {owner}, and comes before vgpu's"),
                    remedy,
                );
            }
            Err(error) => {
                let text = format!("{shown} does not load: {}", crate::error::chain(&error));
                report.error("ollama-foreign", text, remedy);
            }
        }
    }
}

/// The environment that ollama gives to what it starts for `backend`.
fn runner_environment(
    subject: &Subject,
    service: &Environment,
    folder: &Path,
    backend: &Path,
) -> Environment {
    let mut environment = subject.environment.clone();
    environment.extend(service.clone());
    let inherited = environment.get("LD_LIBRARY_PATH").filter(|path| !path.is_empty());
    let inherited = inherited.map(|path| format!(":{path}")).unwrap_or_default();
    let path = format!("{}:{}{inherited}", folder.display(), backend.display());
    environment.insert("LD_LIBRARY_PATH".into(), path);
    environment
}

/// What the runner's loader does with the backend.
fn runner(subject: &Subject, service: &Environment, folder: &Path, backend: &Path, report: &mut Report) {
    let environment = runner_environment(subject, service, folder, backend);
    let loader = Loader::new(&subject.root, environment.get("LD_LIBRARY_PATH").map(String::as_str));
    let path = backend.join(BACKEND);
    let shown = path.display();
    let library = match elf::read(&subject.root.behind(&path)) {
        Ok(library) => library,
        Err(error) => {
            let text = format!("{shown}: {}", crate::error::chain(&error));
            return report.error("ollama-backend", text, "install ollama's archive whole");
        }
    };
    let good = picks_ours(&loader, &path, &library, report)
        && is_whole(&loader, &path, &library, report)
        && tried(subject, &path, &environment, report);
    if good {
        report.ok(format!("the runner finds vgpu's {CUDA} for {shown}"));
    }
}

/// Whether the backend gets our libcuda.
fn picks_ours(loader: &Loader<'_>, backend: &Path, library: &Library, report: &mut Report) -> bool {
    let shown = backend.display();
    let Some(found) = loader.find_for(CUDA, Some((backend, library))) else {
        report.error(
            "ollama-libcuda",
            format!("the runner finds no {CUDA} for {shown}"),
            "run vgpu-agent install as root: ollama asks the loader, so that the loader must know it",
        );
        return false;
    };
    let ours = is_ours_in(loader.root, &found.path);
    if !ours {
        let text = format!("the runner picks {}, by {}, for {shown}", found.path.display(), found.via);
        report.error("ollama-libcuda", text, "remove it, or take its folder out of LD_LIBRARY_PATH");
    }
    ours
}

/// Whether all is there that the backend needs. Other imports than the driver's are the loader's to judge.
fn is_whole(loader: &Loader<'_>, backend: &Path, library: &Library, report: &mut Report) -> bool {
    let shown = backend.display();
    let missing = missing(loader, backend, library);
    if !missing.libraries.is_empty() {
        let names = missing.libraries.join(", ");
        report.error(
            "ollama-needs",
            format!("{shown} needs libraries that the runner does not find: {names}"),
            "install ollama's archive whole; of its own libraries none may be missing",
        );
        return false;
    }
    let driver: Vec<_> = missing.symbols.into_iter().filter(|name| is_of_driver(name)).collect();
    if !driver.is_empty() {
        let names = driver.join(", ");
        report.error(
            "ollama-imports",
            format!("{shown} imports functions of the driver that vgpu's {CUDA} lacks: {names}"),
            "with RTLD_NOW this loses the whole backend: update vgpu",
        );
    }
    driver.is_empty()
}

/// Loads the backend and starts CUDA as the runner does it; whether that works, or could not be tried.
fn tried(subject: &Subject, backend: &Path, environment: &Environment, report: &mut Report) -> bool {
    let Some(prober) = &subject.prober else { return true };
    let load = prober.run(Kind::Load, &backend.to_string_lossy(), environment);
    if let Ok(Answer { load_error: Some(error), .. }) = load.answer {
        let text = format!("{} does not load as the runner does it: {error}", backend.display());
        report.error("ollama-load", text, "as the message says");
        return false;
    }
    let cuda = prober.run(Kind::Cuda, CUDA, environment);
    if let Ok(Answer { failed: Some(step), .. }) = &cuda.answer {
        let text = format!("in the runner's environment {step}");
        report.error("ollama-runner", text, "compare the variables of ollama's unit with your shell's");
        report.log(&cuda.log);
        return false;
    }
    true
}

fn is_of_driver(symbol: &str) -> bool {
    symbol.strip_prefix("cu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
}

/// OLLAMA_LLM_LIBRARY keeps ollama from other backends than the named one.
fn chosen(
    subject: &Subject,
    service: &Environment,
    folders: &[(PathBuf, Vec<PathBuf>)],
    report: &mut Report,
) {
    let name = "OLLAMA_LLM_LIBRARY";
    let Some(wanted) = service.get(name).or_else(|| subject.environment.get(name)).filter(|w| !w.is_empty())
    else {
        return;
    };
    let mut backends = folders.iter().flat_map(|(_, backends)| backends);
    if !backends.any(|backend| backend.ends_with(wanted)) {
        report.error(
            "ollama-llm-library",
            format!("{name}={wanted} is none of ollama's CUDA folders: it goes to the CPU"),
            "unset it",
        );
    }
}

fn wsl(subject: &Subject, report: &mut Report) {
    if subject.root.has(WSL_NVML) && !is_ours_in(&subject.root, Path::new(WSL_NVML)) {
        report.warning(
            "ollama-wsl",
            format!("ollama up to 0.24 takes {WSL_NVML} before {NVML} of the loader"),
            "remove it: this is no WSL",
        );
    }
}

/// The variables that ollama's unit sets.
fn service(subject: &Subject) -> Environment {
    let drop_ins = subject.root.names(DROP_INS).into_iter().map(|name| Path::new(DROP_INS).join(name));
    let mut environment = Environment::new();
    for file in UNITS.iter().map(PathBuf::from).chain(drop_ins) {
        for line in subject.root.text(file).lines() {
            if let Some(assignments) = line.trim().strip_prefix("Environment=") {
                environment.extend(words(assignments).into_iter().filter_map(|word| {
                    let (name, value) = word.split_once('=')?;
                    Some((name.to_owned(), value.to_owned()))
                }));
            }
        }
    }
    environment
}

/// Words of a unit's line: separated by blanks, with quotes around what has blanks in it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in line.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            None if letter == '"' || letter == '\'' => quote = Some(letter),
            None if letter.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree::Tree;

    const V13: &str = "usr/local/lib/ollama/cuda_v13";

    /// A guest with vgpu installed, and ollama with one backend.
    fn guest() -> Tree {
        let tree = Tree::new();
        tree.ours("usr/lib/libcuda.so.1", CUDA);
        backend(&tree, "vgpu_library", &[]);
        tree
    }

    /// A backend that imports `symbol` and needs libcuda and what `options` link.
    fn backend(tree: &Tree, symbol: &str, options: &[&str]) {
        let cuda = tree.path("usr/lib/libcuda.so.1").display().to_string();
        let source = format!("extern int {symbol}; int *f(void) {{ return &{symbol}; }}");
        tree.library(&format!("{V13}/libggml-cuda.so"), &source, &[&[cuda.as_str()], options].concat());
    }

    fn found_in(tree: &Tree, variables: &[(&str, &str)]) -> Vec<&'static str> {
        let mut subject = Subject::files(tree.root());
        subject.environment = variables.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        let mut report = Report::default();
        check(&subject, &mut Facts::default(), &mut report);
        report.faults()
    }

    #[test]
    fn nothing_is_wrong_with_a_whole_installation() {
        assert!(found_in(&Tree::new(), &[]).is_empty());
        assert!(found_in(&guest(), &[]).is_empty());
    }

    #[test]
    fn the_followed_program_is_looked_at_wherever_it_lies() {
        let tree = Tree::new();
        tree.file("opt/ollama/bin/ollama", "").file("opt/ollama/lib/ollama/libggml-base.so", "");
        let mut subject = Subject::files(tree.root());
        let faults = |subject: &Subject| {
            let mut report = Report::default();
            check(subject, &mut Facts::default(), &mut report);
            report.faults()
        };
        assert!(faults(&subject).is_empty());
        subject.program = Some("/opt/ollama/bin/other".into());
        assert!(faults(&subject).is_empty(), "another program's neighbours are not ollama's");
        subject.program = Some("/opt/ollama/bin/ollama".into());
        assert_eq!(faults(&subject), ["ollama-no-cuda"]);
    }

    #[test]
    fn bundled_libraries_are_told_apart() {
        let tree = guest();
        tree.link(&format!("{V13}/libcuda.so.1"), "/usr/lib/libcuda.so.1");
        assert!(found_in(&tree, &[]).is_empty(), "a link to the installed one is right");
        tree.remove(&format!("{V13}/libcuda.so.1")).ours(&format!("{V13}/libcuda.so.1"), CUDA);
        assert_eq!(found_in(&tree, &[]), ["ollama-copy"]);
        tree.foreign(&format!("{V13}/libcuda.so.1"), CUDA);
        assert_eq!(found_in(&tree, &[]), ["ollama-foreign", "ollama-libcuda"]);
        let old = "const unsigned char vgpu_library[32] = \"vgpu lib\\1\\0000.0.1\";";
        tree.library(&format!("{V13}/libcuda.so.1"), old, &["-Wl,-soname,libcuda.so.1"]);
        assert_eq!(found_in(&tree, &[]), ["ollama-stale"]);
        tree.remove(&format!("{V13}/libcuda.so.1")).foreign("usr/local/lib/ollama/libnvidia-ml.so.1", NVML);
        assert_eq!(found_in(&tree, &[]), ["ollama-foreign"]);
    }

    #[test]
    fn what_keeps_the_backend_from_loading_is_named() {
        let tree = guest();
        backend(&tree, "cuMemNew", &[]);
        assert_eq!(found_in(&tree, &[]), ["ollama-imports"]);
        tree.library("tmp/libcublas.so.13", "int b;", &["-Wl,-soname,libcublas.so.13"]);
        let blas = tree.path("tmp/libcublas.so.13").display().to_string();
        backend(&tree, "b", &["-Wl,--no-as-needed", &blas]);
        assert_eq!(found_in(&tree, &[]), ["ollama-needs"]);
        tree.file(&format!("{V13}/libggml-cuda.so"), "cut off");
        assert_eq!(found_in(&tree, &[]), ["ollama-backend"]);
        backend(&tree, "vgpu_library", &[]);
        tree.remove("usr/lib/libcuda.so.1");
        assert_eq!(found_in(&tree, &[]), ["ollama-libcuda"]);
    }

    #[test]
    fn the_unit_s_variables_count() {
        let tree = guest();
        tree.foreign("opt/x/libcuda.so.1", CUDA);
        assert_eq!(found_in(&tree, &[("LD_LIBRARY_PATH", "/opt/x")]), ["ollama-libcuda"]);
        tree.file(
            "etc/systemd/system/ollama.service.d/my.conf",
            "[Service]\nEnvironment=\"A=1 2\" OLLAMA_LLM_LIBRARY=rocm\n Environment=LD_LIBRARY_PATH=/opt/x\n",
        );
        assert_eq!(found_in(&tree, &[]), ["ollama-libcuda", "ollama-llm-library"]);
        assert_eq!(service(&Subject::files(tree.root())).get("A").unwrap(), "1 2");
    }

    #[test]
    fn a_missing_backend_and_another_nvml_are_named() {
        let tree = Tree::new();
        tree.folder("opt/ollama/lib/ollama")
            .file("opt/ollama/bin/ollama", "")
            .link("usr/bin/ollama", "/opt/ollama/bin/ollama");
        assert_eq!(found_in(&tree, &[("PATH", "/usr/bin")]), ["ollama-no-cuda"]);
        let tree = guest();
        tree.foreign("usr/lib/wsl/lib/libnvidia-ml.so.1", NVML);
        assert_eq!(found_in(&tree, &[]), ["ollama-wsl"]);
    }
}
