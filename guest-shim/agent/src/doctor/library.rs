//! Which libcuda and NVML the loader picks, whose they are, and whether they load.

use super::probe::Kind;
use super::report::Report;
use super::subject::{Facts, Subject};
use crate::system::elf::{self, Library};
use crate::system::library::{Owner, is_ours_in};
use crate::system::loader::{Found, Loader};
use crate::system::{CUDA, NVML};
use std::collections::BTreeSet;
use std::path::Path;

const INSTALL: &str = "run vgpu-agent install as root";

pub fn check(subject: &Subject, _: &mut Facts, report: &mut Report) {
    let loader = Loader::new(&subject.root, subject.library_path());
    match loader.find(CUDA) {
        Some(found) => cuda(subject, &loader, &found, report),
        None => report.error("libcuda-missing", format!("the loader finds no {CUDA}"), INSTALL),
    }
    match loader.find(NVML) {
        Some(found) => nvml(subject, &found, report),
        None => report.warning(
            "nvml-missing",
            format!("the loader finds no {NVML}: monitoring, and ollama up to 0.24, need it"),
            INSTALL,
        ),
    }
    developers_name(&loader, report);
}

fn cuda(subject: &Subject, loader: &Loader<'_>, found: &Found, report: &mut Report) {
    let Found { path, via } = found;
    let shown = path.display();
    let file = subject.root.behind(path);
    let library = match elf::read(&file) {
        Ok(library) => library,
        Err(error) => {
            let text = format!("{shown}, by {via}: {}", crate::error::chain(&error));
            return report.error("libcuda-broken", text, INSTALL);
        }
    };
    if is_unfit(&Owner::of(&file, &library), found, report) {
        return;
    }
    if library.soname.as_deref() != Some(CUDA) {
        let soname = library.soname.as_deref().unwrap_or("none");
        return report.error(
            "libcuda-soname",
            format!("{shown} has the SONAME {soname}: ldconfig forgets it, and programs load a second one"),
            INSTALL,
        );
    }
    imports(loader, path, &library, report);
    if let Some(prober) = &subject.prober {
        let outcome = prober.run(Kind::Load, CUDA, &subject.environment);
        if let Ok(answer) = outcome.answer
            && let Some(error) = answer.load_error
        {
            return report.error("libcuda-load", format!("{shown} does not load: {error}"), INSTALL);
        }
    }
    report.ok(format!("{CUDA} is {shown}, by {via}"));
}

/// Reports a libcuda that is not ours, or not of this release; whether the rest is pointless.
fn is_unfit(owner: &Owner, found: &Found, report: &mut Report) -> bool {
    let Found { path, via } = found;
    let shown = path.display();
    match owner {
        Owner::Stub => report.error(
            "libcuda-stub",
            format!("the loader picks {shown}, by {via}: a stub of the CUDA toolkit for linking, which does nothing"),
            "take the folder stubs out of LD_LIBRARY_PATH and /etc/ld.so.conf.d",
        ),
        Owner::Foreign => report.error(
            "libcuda-foreign",
            format!("the loader picks {shown}, by {via}: it is not vgpu's"),
            format!("take that folder out of LD_LIBRARY_PATH, or remove the file; then {INSTALL}"),
        ),
        Owner::Other(marker) => {
            let text = format!(
                "{shown}, by {via}, is of vgpu {} (protocol {}); this is {}",
                marker.release(),
                marker.protocol(),
                env!("CARGO_PKG_VERSION")
            );
            report.error("libcuda-release", text, INSTALL);
        }
        Owner::Ours => return false,
    }
    true
}

fn nvml(subject: &Subject, found: &Found, report: &mut Report) {
    let Found { path, via } = found;
    let shown = path.display();
    let file = subject.root.behind(path);
    let library = match elf::read(&file) {
        Ok(library) => library,
        Err(error) => {
            let text = format!("{shown}: {}", crate::error::chain(&error));
            return report.error("nvml-broken", text, INSTALL);
        }
    };
    match Owner::of(&file, &library) {
        Owner::Ours if library.soname.as_deref() == Some(NVML) => {
            report.ok(format!("{NVML} is {shown}, by {via}"));
        }
        Owner::Ours => report.error(
            "nvml-soname",
            format!("{shown} has not the SONAME {NVML}: ldconfig forgets it"),
            INSTALL,
        ),
        owner => report.error(
            "nvml-foreign",
            format!("the loader picks {shown}, by {via}: it is {owner}, so NVML and CUDA show different devices or none"),
            format!("take that folder out of LD_LIBRARY_PATH, or remove the file; then {INSTALL}"),
        ),
    }
}

/// numba, and linkers, ask for the name without a version.
fn developers_name(loader: &Loader<'_>, report: &mut Report) {
    match loader.find("libcuda.so") {
        Some(found) if !is_ours_in(loader.root, &found.path) => report.warning(
            "libcuda-name",
            format!(
                "libcuda.so, without a version, is {}: programs that ask for that name do not get vgpu's",
                found.path.display()
            ),
            INSTALL,
        ),
        Some(_) => {}
        None => report.note("libcuda.so, without a version, is not there: only numba and linkers ask for it"),
    }
}

/// With RTLD_NOW one import that nobody has loses the whole library.
fn imports(loader: &Loader<'_>, path: &Path, library: &Library, report: &mut Report) {
    let missing = missing(loader, path, library);
    if !missing.libraries.is_empty() {
        report.error(
            "libcuda-needs",
            format!(
                "{} needs libraries that the loader does not find: {}",
                path.display(),
                missing.libraries.join(", ")
            ),
            "install them (Debian: libc6, libgcc-s1)",
        );
    }
    if !missing.symbols.is_empty() {
        report.error(
            "libcuda-imports",
            format!("{} needs functions that nobody has: {}", path.display(), missing.symbols.join(", ")),
            "the distribution is too old for this build: build vgpu on it",
        );
    }
}

/// What a library needs and does not get.
#[derive(Debug, Default)]
pub struct Missing {
    pub libraries: Vec<String>,
    pub symbols: Vec<String>,
}

/// Looks for what the library at `path` and those that it needs want. Symbols of it are judged only if all libraries are there.
pub fn missing(loader: &Loader<'_>, path: &Path, library: &Library) -> Missing {
    let mut missing = Missing::default();
    let (mut exports, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut left = vec![(path.to_path_buf(), library.clone())];
    while let Some((path, library)) = left.pop() {
        for name in &library.needed {
            if !seen.insert(name.clone()) {
                continue;
            }
            let found = loader.find_for(name, Some((&path, &library)));
            match found.map(|found| (elf::read(&loader.root.behind(&found.path)), found.path)) {
                Some((Ok(needed), path)) => {
                    exports.extend(needed.exports.iter().cloned());
                    left.push((path, needed));
                }
                _ => missing.libraries.push(name.clone()),
            }
        }
    }
    if missing.libraries.is_empty() {
        let wanted = library.imports.iter().filter(|import| !import.weak && !exports.contains(&import.name));
        missing.symbols = wanted.map(|import| import.name.clone()).collect();
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree::Tree;

    fn found_with(tree: &Tree, library_path: Option<&str>) -> Vec<&'static str> {
        let mut subject = Subject::files(tree.root());
        if let Some(path) = library_path {
            subject.environment.insert("LD_LIBRARY_PATH".into(), path.into());
        }
        let mut report = Report::default();
        check(&subject, &mut Facts::default(), &mut report);
        report.faults()
    }

    fn installed() -> Tree {
        let tree = Tree::new();
        tree.ours("usr/lib/libcuda.so.1", CUDA).ours("usr/lib/libnvidia-ml.so.1", NVML);
        tree.link("usr/lib/libcuda.so", "libcuda.so.1");
        tree
    }

    #[test]
    fn ours_is_right_and_nothing_is_missing() {
        assert!(found_with(&installed(), None).is_empty());
        assert_eq!(found_with(&Tree::new(), None), ["libcuda-missing", "nvml-missing"]);
    }

    #[test]
    fn a_foreign_library_that_comes_first_is_named() {
        let tree = installed();
        tree.foreign("opt/x/libcuda.so.1", CUDA).foreign("opt/x/libnvidia-ml.so.1", NVML);
        assert_eq!(found_with(&tree, Some("/opt/x")), ["libcuda-foreign", "nvml-foreign"]);
        tree.foreign("usr/local/cuda/lib64/stubs/libcuda.so.1", CUDA);
        tree.link("usr/local/cuda/lib64/stubs/libcuda.so", "libcuda.so.1");
        assert_eq!(found_with(&tree, Some("/usr/local/cuda/lib64/stubs")), ["libcuda-stub", "libcuda-name"]);
    }

    #[test]
    fn a_library_of_another_name_release_or_kind_is_named() {
        let tree = installed();
        tree.ours("opt/a/libcuda.so.1", "libvgpu.so")
            .file("opt/b/libcuda.so.1", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0");
        assert_eq!(found_with(&tree, Some("/opt/a")), ["libcuda-soname"]);
        assert_eq!(found_with(&tree, Some("/opt/b")), ["libcuda-broken"]);
        tree.file("opt/d/libnvidia-ml.so.1", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0");
        assert_eq!(found_with(&tree, Some("/opt/d")), ["nvml-broken"]);
        tree.ours("opt/e/libnvidia-ml.so.1", "libnvidia.so");
        assert_eq!(found_with(&tree, Some("/opt/e")), ["nvml-soname"]);
        let old = "const unsigned char vgpu_library[32] = \"vgpu lib\\1\\0000.0.1\";";
        tree.library("opt/c/libcuda.so.1", old, &["-Wl,-soname,libcuda.so.1"]);
        assert_eq!(found_with(&tree, Some("/opt/c")), ["libcuda-release"]);
    }

    #[test]
    fn a_libcuda_of_ours_that_cannot_load_is_named() {
        let tree = installed();
        tree.library(
            "usr/lib/libhelper.so.1",
            "int helps(void) { return 1; }",
            &["-Wl,-soname,libhelper.so.1"],
        );
        let helper = tree.path("usr/lib/libhelper.so.1").display().to_string();
        tree.ours_with(
            "opt/a/libcuda.so.1",
            CUDA,
            "int hinders(void); int f(void) { return hinders(); }",
            &["-Wl,--no-as-needed", &helper],
        );
        assert_eq!(found_with(&tree, Some("/opt/a")), ["libcuda-imports"]);
        tree.remove("usr/lib/libhelper.so.1");
        assert_eq!(found_with(&tree, Some("/opt/a")), ["libcuda-needs"]);
    }

    #[test]
    fn imports_and_libraries_that_nobody_has_are_named() {
        let tree = installed();
        tree.ours("opt/a/libcuda.so.1", CUDA);
        tree.library(
            "usr/lib/libhelper.so.1",
            "int helps(void) { return 1; }",
            &["-Wl,-soname,libhelper.so.1"],
        );
        let helper = tree.path("usr/lib/libhelper.so.1").display().to_string();
        let library = |function: &str| {
            tree.library(
                "opt/a/libother.so",
                &format!("int {function}(void); int f(void) {{ return {function}(); }}"),
                &[&helper],
            );
            let subject = Subject::files(tree.root());
            let loader = Loader::new(&subject.root, None);
            let path = Path::new("/opt/a/libother.so");
            missing(&loader, path, &elf::read(&subject.root.behind(path)).unwrap())
        };
        assert!(library("helps").symbols.is_empty());
        assert_eq!(library("hinders").symbols, ["hinders"]);
        tree.remove("usr/lib/libhelper.so.1");
        tree.library("tmp/libhelper.so.1", "int helps(void) { return 1; }", &["-Wl,-soname,libhelper.so.1"]);
        let helper = tree.path("tmp/libhelper.so.1").display().to_string();
        tree.library("opt/a/libother.so", "int helps(void); int f(void) { return helps(); }", &[&helper]);
        let subject = Subject::files(tree.root());
        let path = Path::new("/opt/a/libother.so");
        let read = elf::read(&subject.root.behind(path)).unwrap();
        assert_eq!(missing(&Loader::new(&subject.root, None), path, &read).libraries, ["libhelper.so.1"]);
    }
}
